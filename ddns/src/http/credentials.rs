//! Who asks: Basic authentication (RFC 7617) with the device's name and its key.

use data_encoding::BASE64;
use directory::{Device, DeviceName, Duty, Place, Reader, TokenHash, Zone};

/// What a request says of its sender. Not printable.
pub(super) struct Credentials {
    user: String,
    key: String,
}

impl Credentials {
    /// Reads an `Authorization` header; one that cannot be read proves nothing.
    pub(super) fn read(header: Option<&[u8]>) -> Self {
        let (user, key) = header.and_then(read_basic).unwrap_or_default();
        Self { user, key }
    }

    /// The device whose name and address key they are. A key is hashed and compared whoever asks, so that the time it
    /// takes does not tell which names exist.
    pub(super) fn device(&self, directory: &Reader) -> Option<Device> {
        let device = read_user(&self.user, directory.zone())
            .and_then(|name| directory.device_by_name(&name));
        let hash = device
            .as_ref()
            .and_then(|device| device.key_for(Duty::Addresses));
        let nobodys = TokenHash::from_bytes([0; 32]);
        let matches = hash.unwrap_or(nobodys).matches(&self.key);
        device.filter(|_| hash.is_some() && matches)
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

fn read_basic(header: &[u8]) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
    let (user, key) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), key.to_owned()))
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

    #[test]
    fn name_and_key_prove_a_device() {
        let (directory, key) = devices();
        let device = |header: &str| Credentials::read(Some(header.as_bytes())).device(&directory);
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
            let proved = Credentials::read(Some(header.as_bytes())).device(&directory);
            assert!(proved.is_none(), "{header}");
        }
        assert!(Credentials::read(None).device(&directory).is_none());
    }
}
