//! A strict reader of OpenMetrics text: refuses what the format forbids, as far as counters, gauges and infos go.

use std::collections::{HashMap, HashSet};

/// One family of metrics.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// `counter`, `gauge` or `info`.
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: Option<String>,
    /// Name with labels as written, and value.
    pub(crate) samples: Vec<(String, f64)>,
}

/// The families of `text` by name, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<HashMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("the text does not end with # EOF")?;
    let (mut families, mut current) = (HashMap::<String, Family>::new(), None::<String>);
    let mut seen = HashSet::new();
    for line in body.lines() {
        if let Some(descriptor) = line.strip_prefix("# ") {
            let name = descriptor.split(' ').nth(1).ok_or_else(|| format!("no name: {line}"))?.to_owned();
            if current.as_ref() != Some(&name) && families.contains_key(&name) {
                return Err(format!("the family {name} is interrupted"));
            }
            check_name(&name)?;
            describe(families.entry(name.clone()).or_default(), &name, descriptor)?;
            current = Some(name);
        } else {
            let name = current.as_ref().ok_or_else(|| format!("a sample before any descriptor: {line}"))?;
            let family = families.get_mut(name).ok_or("no family")?;
            let sample = check_sample(line, name, family)?;
            if !seen.insert(sample.0.clone()) {
                return Err(format!("twice: {}", sample.0));
            }
            family.samples.push(sample);
        }
    }
    match families.iter().find(|(_, family)| family.kind.is_empty() || family.help.is_empty()) {
        Some((name, _)) => Err(format!("{name} has no type or no help")),
        None => Ok(families),
    }
}

/// The value of one sample, named as a query names it, with its labels as written.
pub(crate) fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == sample))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn describe(family: &mut Family, name: &str, descriptor: &str) -> Result<(), String> {
    if !family.samples.is_empty() {
        return Err(format!("a descriptor of {name} after its samples"));
    }
    let mut words = descriptor.splitn(3, ' ');
    let (word, rest) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
    let slot = match word {
        "HELP" => &mut family.help,
        "TYPE" if ["counter", "gauge", "info"].contains(&rest) => &mut family.kind,
        "UNIT" if name.ends_with(&format!("_{rest}")) => family.unit.get_or_insert_default(),
        _ => return Err(format!("not a descriptor: {descriptor}")),
    };
    if !slot.is_empty() {
        return Err(format!("{word} of {name} twice"));
    }
    rest.clone_into(slot);
    Ok(())
}

fn check_sample(line: &str, family_name: &str, family: &Family) -> Result<(String, f64), String> {
    let (sample, number) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
    let (name, labels) = match sample.split_once('{') {
        Some((name, labels)) => (name, Some(labels.strip_suffix('}').ok_or_else(|| format!("no }}: {line}"))?)),
        None => (sample, None),
    };
    let suffix = match family.kind.as_str() {
        "counter" => "_total",
        "info" => "_info",
        "gauge" => "",
        _ => return Err(format!("a sample before the type: {line}")),
    };
    if name != format!("{family_name}{suffix}") {
        return Err(format!("{name} does not belong to the {} {family_name}", family.kind));
    }
    labels.map_or(Ok(()), check_labels)?;
    let number: f64 = number.parse().map_err(|_| format!("not a number: {line}"))?;
    if family.kind == "counter" && (number < 0.0 || !number.is_finite()) || family.kind == "info" && number != 1.0 {
        return Err(format!("not a value of a {}: {line}", family.kind));
    }
    Ok((sample.to_owned(), number))
}

fn check_labels(labels: &str) -> Result<(), String> {
    let (mut rest, mut names) = (labels, HashSet::new());
    if labels.is_empty() {
        return Err("empty braces".to_owned());
    }
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or_else(|| format!("no value: {labels}"))?;
        check_name(name)?;
        if !names.insert(name) {
            return Err(format!("label twice: {labels}"));
        }
        rest = &quoted[end_of_quoted(quoted).ok_or_else(|| format!("bad quoting: {labels}"))?..];
        if rest.is_empty() {
            return Ok(());
        }
        rest = rest.strip_prefix(',').ok_or_else(|| format!("no comma: {labels}"))?;
    }
}

/// The position behind the closing quotation mark.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut letters = text.char_indices();
    while let Some((position, letter)) = letters.next() {
        match letter {
            '"' => return Some(position + 1),
            '\\' if !['\\', '"', 'n'].contains(&letters.next()?.1) => return None,
            '\n' => return None,
            _ => {}
        }
    }
    None
}

fn check_name(name: &str) -> Result<(), String> {
    let is_good = |(position, letter): (usize, char)| {
        letter.is_ascii_alphabetic() || letter == '_' || position > 0 && letter.is_ascii_digit()
    };
    if !name.is_empty() && name.char_indices().all(is_good) { Ok(()) } else { Err(format!("bad name: {name}")) }
}
