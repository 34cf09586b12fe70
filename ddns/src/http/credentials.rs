//! Who asks: a device's name, and its key for what is asked.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use data_encoding::BASE64;
use directory::{Device, DeviceName, Duty, Place, Reader, TokenHash, Zone};

use super::form;

/// What a request says of its sender. Not printable.
#[derive(Default)]
pub(super) struct Credentials {
    user: String,
    key: String,
}

impl Credentials {
    /// A name and a key, wherever they stood.
    pub(super) fn new(user: &str, key: &str) -> Self {
        Self {
            user: user.to_owned(),
            key: key.to_owned(),
        }
    }

    /// Reads Basic authentication (RFC 7617); a header that cannot be read proves nothing.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        header.and_then(read_basic).unwrap_or_default()
    }

    /// The same; without such a header, reads `username` and `password` of the query string, as routers put them there whose
    /// owners can write an URL and nothing else.
    pub(super) fn of_header_or_query(headers: &HeaderMap, query: &str) -> Self {
        if headers.contains_key(AUTHORIZATION) {
            return Self::of(headers);
        }
        let mut read = Self::default();
        for (key, value) in form::pairs(query) {
            match key.as_str() {
                "username" => read.user = value,
                "password" => read.key = value,
                _ => {}
            }
        }
        read
    }

    /// The device whose name and key for `duty` they are. A key is hashed and compared whoever asks, so that the time it
    /// takes does not tell which names exist.
    pub(super) fn device(&self, directory: &Reader, duty: Duty) -> Option<Device> {
        let device = read_user(&self.user, directory.zone())
            .and_then(|name| directory.device_by_name(&name));
        let hash = device.as_ref().and_then(|device| device.key_for(duty));
        let nobodys = TokenHash::from_bytes([0; TokenHash::LEN]);
        let matches = hash.unwrap_or(nobodys).matches(&self.key);
        device.filter(|_| hash.is_some() && matches)
    }

    /// The key, for the one reply that repeats it to who has shown it.
    pub(super) fn reveal_key(&self) -> &str {
        &self.key
    }
}

/// The device whose own full name `host` is; `None` for anything else, and for names below a device.
pub(super) fn own_name(host: &str, zone: &Zone) -> Option<DeviceName> {
    let Place::Device(name) = zone.locate(host) else {
        return None;
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    zone.name_of(&name)
        .eq_ignore_ascii_case(host)
        .then_some(name)
}

/// A user is a device, by its label or by its full name.
fn read_user(user: &str, zone: &Zone) -> Option<DeviceName> {
    if user.contains('.') {
        own_name(user, zone)
    } else {
        DeviceName::parse(user).ok()
    }
}

fn read_basic(header: &[u8]) -> Option<Credentials> {
    let (scheme, encoded) = header.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
    let (user, key) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Credentials::new(user, key))
}

#[cfg(test)]
mod tests {
    use directory::{RegistrationId, Token};

    use super::*;

    const CHALLENGE_KEY: &str = "a key of another duty";

    /// A Directory with `mynas`, whose address key is returned, and `keyless`, which has none. Both have the same
    /// challenge key.
    fn devices() -> (Reader, Token) {
        let (mut writer, reader) = directory::directory(Zone::parse("nas.test").unwrap());
        let key = Token::generate().unwrap();
        for (registration, name, ddns_key) in [(1, "mynas", Some(key.hash())), (2, "keyless", None)]
        {
            writer.put(Device {
                registration: RegistrationId(registration),
                name: DeviceName::parse(name).unwrap(),
                identity: None,
                ddns_key,
                challenge_key: Some(TokenHash::of(CHALLENGE_KEY)),
            });
        }
        (reader, key)
    }

    fn basic(user: &str, key: &str) -> String {
        format!(
            "Basic {}",
            BASE64.encode(format!("{user}:{key}").as_bytes())
        )
    }

    fn headers(authorization: &str) -> HeaderMap {
        let value = HeaderValue::from_str(authorization).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn name_and_key_prove_a_device() {
        let (directory, key) = devices();
        let device =
            |header: &str| Credentials::of(&headers(header)).device(&directory, Duty::Addresses);
        for user in ["mynas", "MyNAS", "mynas.nas.test", "MYNAS.nas.test."] {
            let device = device(&basic(user, key.reveal())).unwrap();
            assert_eq!(device.name.as_str(), "mynas");
        }
        let lower = basic("mynas", key.reveal()).replace("Basic", "basic");
        assert!(device(&lower).is_some());
    }

    #[test]
    fn nothing_else_proves_anything() {
        let (directory, key) = devices();
        let key = key.reveal();
        for header in [
            basic("mynas", "wrong"),
            basic("mynas", ""),
            basic("", key),
            basic("keyless", ""),
            basic("keyless", key),
            basic("mynas", CHALLENGE_KEY),
            basic("keyless", CHALLENGE_KEY),
            basic("nobody", key),
            basic("photos.mynas.nas.test", key),
            basic("mynas.other.test", key),
            basic("cloud", key),
            format!("Bearer {key}"),
            "Basic".into(),
            "Basic !".into(),
            format!("Basic {}", BASE64.encode(b"mynas")),
            format!("Basic {}", BASE64.encode(&[0xFF, b':', 0xFF])),
        ] {
            let credentials = Credentials::of(&headers(&header));
            let proved = credentials.device(&directory, Duty::Addresses);
            assert!(proved.is_none(), "{header}");
        }
        let nothing = Credentials::of(&HeaderMap::new());
        assert!(nothing.device(&directory, Duty::Addresses).is_none());
    }

    #[test]
    fn each_key_proves_one_duty() {
        let (directory, key) = devices();
        for (key, duty, other) in [
            (key.reveal(), Duty::Addresses, Duty::Challenges),
            (CHALLENGE_KEY, Duty::Challenges, Duty::Addresses),
        ] {
            let credentials = Credentials::new("mynas", key);
            assert!(credentials.device(&directory, duty).is_some());
            assert!(credentials.device(&directory, other).is_none());
        }
    }

    #[test]
    fn the_url_counts_where_there_is_no_header() {
        let (directory, key) = devices();
        let proves = |headers: &HeaderMap, query: &str| {
            let credentials = Credentials::of_header_or_query(headers, query);
            credentials.device(&directory, Duty::Addresses).is_some()
        };
        let query = format!("myip=192.0.2.1&username=mynas&password={}", key.reveal());
        assert!(proves(&HeaderMap::new(), &query));
        assert!(!proves(
            &HeaderMap::new(),
            &query.replace("mynas", "nobody")
        ));
        assert!(!proves(&headers("Basic !"), &query), "the header counts");
        let right = headers(&basic("mynas", key.reveal()));
        assert!(proves(&right, "username=nobody&password=wrong"));
    }
}
