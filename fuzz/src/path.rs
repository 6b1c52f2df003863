//! Paths of requests.

use headwater_route_match::{NormalPath, normalise_path};

/// A path in normal form is one that no recipient reads differently, and is its own normal form. Spelling an octet out as
/// `%XX` never leads to another form.
pub fn path(bytes: &[u8]) {
    let Ok(normal) = normalise_path(bytes) else { return };
    let text = normal.as_str();
    if text == "*" {
        assert_eq!(bytes, b"*");
        return;
    }
    assert!(text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert!(!text.contains("//") && !text.contains(['?', '#', '\\']), "{text}");
    assert!(!text.split('/').any(|segment| segment == "." || segment == ".."), "{text}");
    assert!(matches!(normalise_path(text.as_bytes()), Ok(NormalPath::Unchanged(same)) if same == text), "{text}");
    if let NormalPath::Unchanged(unchanged) = normal {
        assert_eq!(unchanged.as_bytes(), bytes);
    }

    // Letters spelt out are the same letters, `%2e` and `.` the same dot.
    let mut spelt = Vec::with_capacity(bytes.len() * 3);
    let mut escaped = 0;
    for &byte in bytes {
        let plain = escaped == 0 && (byte.is_ascii_alphanumeric() || byte == b'.');
        escaped = if byte == b'%' { 2 } else { i32::max(escaped - 1, 0) };
        if plain {
            spelt.extend_from_slice(format!("%{byte:02x}").as_bytes());
        } else {
            spelt.push(byte);
        }
    }
    match normalise_path(&spelt) {
        Ok(other) => assert_eq!(other.as_str(), text),
        Err(error) => panic!("{text} spelt out is refused: {error}"),
    }
}
