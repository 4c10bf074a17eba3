//! `GET /`: the status page. One document with its style and its script inside, which polls `GET /status`; nothing is
//! fetched from anywhere else, and the Content-Security-Policy lets nothing else run.

use std::sync::LazyLock;

/// The document.
pub(super) fn html() -> &'static str {
    &PAGE.html
}

/// The value of its Content-Security-Policy header.
pub(super) fn content_policy() -> &'static str {
    &PAGE.content_policy
}

struct Page {
    html: String,
    content_policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: include_str!("page/page.html").replacen("{style}", STYLE, 1).replacen("{script}", SCRIPT, 1),
    content_policy: format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source(STYLE),
        source(SCRIPT)
    ),
});

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The hash under which an inline element is allowed (CSP level 2).
fn source(content: &str) -> String {
    format!("sha256-{}", openssl::base64::encode_block(&openssl::sha::sha256(content.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_whole_and_refers_to_nothing_outside() {
        assert!(html().contains(STYLE) && html().contains(SCRIPT));
        for outside in ["http://", "https://", "//cdn", "@import", "url(", "innerHTML", " src="] {
            let found = html().match_indices(outside).map(|(at, _)| &html()[at..]);
            // The namespace of SVG is a name, not an address.
            assert!(found.clone().all(|text| text.starts_with("http://www.w3.org/2000/svg")), "{outside}");
        }
    }
}
