//! What is wrong in a configuration file, where, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Everything that was found in one file, in the order of the file.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    path: PathBuf,
    source: String,
    items: Vec<Diagnostic>,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Whether the file can be used in spite of it.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub title: String,
    /// The bytes of the file that it is about, and what was found there.
    pub place: Option<(Range<usize>, String)>,
    /// Another place that belongs to it.
    pub context: Option<(Range<usize>, String)>,
    /// What is allowed.
    pub allowed: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and the operator should know.
    Warning,
    /// Worth a word; nothing to be done at once.
    Note,
}

/// Whether the output may hold terminal escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// With colours.
    Coloured,
}

impl Diagnostics {
    pub(super) fn new(path: &Path, source: String, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|item| item.place.as_ref().map_or(usize::MAX, |(span, _)| span.start));
        Self { path: path.to_owned(), source, items }
    }

    /// The findings, in the order of the file; those without a place come last.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// How many findings have this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.items.iter().filter(|item| item.severity == severity).count()
    }

    /// No finding at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The findings as text in the form of the Rust compiler's, with an empty line after each. At most
    /// [`RENDERED_COUNT_MAX`] are shown; a last line counts the rest.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for item in self.items.iter().take(RENDERED_COUNT_MAX) {
            text.push_str(&renderer.render(&[self.group(item)]));
            text.push_str("\n\n");
        }
        if let Some(rest @ 1..) = self.items.len().checked_sub(RENDERED_COUNT_MAX) {
            text.push_str(&format!("... and {rest} more\n"));
        }
        text
    }

    /// One finding in one line, for a log: `file:line:column: title: found; allowed; help`.
    pub fn line(&self, item: &Diagnostic) -> String {
        let mut text = self.path.display().to_string();
        if let Some((span, _)) = &item.place {
            let (line, column) = line_and_column(&self.source, span.start);
            text.push_str(&format!(":{line}:{column}"));
        }
        text.push_str(": ");
        text.push_str(&item.title);
        let details = [item.place.as_ref().map(|(_, label)| label), item.allowed.as_ref(), item.help.as_ref()];
        for detail in details.into_iter().flatten().filter(|detail| !detail.is_empty()) {
            text.push_str("; ");
            text.push_str(detail);
        }
        text
    }

    fn group<'a>(&'a self, item: &'a Diagnostic) -> Group<'a> {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let path = self.path.to_string_lossy();
        let mut group = Group::with_title(level.primary_title(item.title.as_str()));
        group = match &item.place {
            None => group.element(Origin::path(path)),
            Some((span, label)) => {
                let primary = AnnotationKind::Primary.span(self.clamp(span)).label(label.as_str());
                // The key of a table lies inside its header, which is underlined already.
                let is_inside = |inner: &Range<usize>| span.start <= inner.start && inner.end <= span.end;
                let context = item.context.as_ref().filter(|(inner, _)| !is_inside(inner)).map(|(span, label)| {
                    let context = AnnotationKind::Context.span(self.clamp(span));
                    if label.is_empty() { context } else { context.label(label.as_str()) }
                });
                group.element(Snippet::source(self.source.as_str()).path(path).annotation(primary).annotations(context))
            }
        };
        if let Some(allowed) = &item.allowed {
            group = group.element(Level::NOTE.message(allowed.as_str()));
        }
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    /// The part of a span that lies in the source, on character borders.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = floor(&self.source, span.start);
        let end = floor(&self.source, span.end).max(start);
        // A table's span may cover lines; its first line says enough.
        let line_end =
            self.source.get(start..end).and_then(|text| text.find('\n')).map_or(end, |length| start + length);
        start..line_end
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    pub(super) fn error(title: impl Into<String>) -> Self {
        Self::new(Severity::Error, clean(title.into()))
    }

    pub(super) fn warning(title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, clean(title.into()))
    }

    pub(super) fn note(title: impl Into<String>) -> Self {
        Self::new(Severity::Note, clean(title.into()))
    }

    fn new(severity: Severity, title: String) -> Self {
        Self { severity, title, place: None, context: None, allowed: None, help: None }
    }

    pub(super) fn at(mut self, span: Range<usize>, found: impl Into<String>) -> Self {
        self.place = Some((span, clean(found.into())));
        self
    }

    pub(super) fn and_at(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.context = Some((span, clean(label.into())));
        self
    }

    pub(super) fn allowed(mut self, text: impl Into<String>) -> Self {
        self.allowed = Some(clean(text.into()));
        self
    }

    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(clean(text.into()));
        self
    }
}

/// Escapes what would move the cursor, recolour the terminal or reorder the line: messages repeat strings of the file.
fn clean(text: String) -> String {
    let reorders = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(|c: char| c.is_control() || reorders(c)) {
        return text;
    }
    let escape = |c: char| if c.is_control() || reorders(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// The largest character border at or before `offset`.
fn floor(source: &str, offset: usize) -> usize {
    let mut offset = offset.min(source.len());
    while !source.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn line_and_column(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..floor(source, offset)).unwrap_or("");
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |text| text.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

/// Findings that are shown: a file of garbage has one per line.
pub const RENDERED_COUNT_MAX: usize = 50;
