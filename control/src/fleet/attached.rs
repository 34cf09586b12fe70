//! A device's tunnel at a relay, as it is said from process to process.

use std::time::{Duration, SystemTime};

use directory::{DeviceId, DeviceName};
use following::{Present, Token16};
use relay::server::{Attachment, Transport};

/// How the device is attached, to be told.
pub(crate) fn present(device: &DeviceId, attachment: &Attachment) -> Present {
    let since = attachment.since.duration_since(SystemTime::UNIX_EPOCH);
    Present {
        device: Token16(*device.as_bytes()),
        name: attachment.name.to_string(),
        since: since.unwrap_or_default().as_secs(),
        transport: attachment.transport.name().to_owned(),
        seen_as: attachment.seen_as,
        software: attachment.software.clone(),
    }
}

/// How it is attached, as it was told; `None` if that makes no sense.
pub(crate) fn attachment(present: Present) -> Option<(DeviceId, Attachment)> {
    let transport = [Transport::Quic, Transport::Tls]
        .into_iter()
        .find(|transport| transport.name() == present.transport)?;
    let since = Duration::from_secs(present.since);
    let attachment = Attachment {
        name: DeviceName::parse(&present.name).ok()?,
        since: SystemTime::UNIX_EPOCH.checked_add(since)?,
        transport,
        seen_as: present.seen_as,
        software: present.software,
    };
    Some((DeviceId::from_bytes(present.device.0), attachment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_arrives_as_it_was() {
        let given = Attachment {
            name: DeviceName::parse("mynas").unwrap(),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            transport: Transport::Tls,
            seen_as: ([192, 0, 2, 7], 4711).into(),
            software: "causeway-agent/1".to_owned(),
        };
        let id = DeviceId::from_bytes([9; 16]);
        assert_eq!(attachment(present(&id, &given)), Some((id, given.clone())));
        let mut other = present(&id, &given);
        other.transport = "pigeon".to_owned();
        assert_eq!(attachment(other), None);
    }
}
