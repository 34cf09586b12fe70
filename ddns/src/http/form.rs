//! The query string of a request, as forms are written (`application/x-www-form-urlencoded`).

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

/// Keys and values, decoded, in order. A key without `=` has an empty value.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    })
}

/// What stands between the commas of a list.
pub(super) fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Undoes percent-encoding and `+`; what is not well encoded stays as it is.
pub(super) fn decoded(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let (octet, after) = match (first, behind) {
            (b'+', _) => (b' ', behind),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (first, behind),
            },
            _ => (first, behind),
        };
        octets.push(octet);
        rest = after;
    }
    String::from_utf8_lossy(&octets).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_encoding_stays_as_it_is() {
        assert_eq!(decoded("a%2"), "a%2");
        assert_eq!(decoded("%zz%41%e9+"), "%zzA\u{FFFD} ");
    }

    #[test]
    fn a_key_may_have_no_value() {
        let read: Vec<_> = pairs("a=1&b&c=&=d&&e=f=g").collect();
        let expected = [
            ("a", "1"),
            ("b", ""),
            ("c", ""),
            ("", "d"),
            ("", ""),
            ("e", "f=g"),
        ];
        assert_eq!(
            read,
            expected.map(|(key, value)| (key.into(), value.into()))
        );
        assert_eq!(items(" a,,b ,").collect::<Vec<_>>(), ["a", "b"]);
    }
}
