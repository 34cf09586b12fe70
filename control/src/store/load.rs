//! Every device at once, as a server needs them before it can answer for any.

use data_encoding::HEXUPPER;
use directory::{Device, DeviceId, DeviceName, Identity, PublicKey, RegistrationId, TokenHash};
use futures_util::TryStreamExt as _;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError};

/// A thousand devices in one row of text, a device a line: what a row costs on its way from the database's thread to ours
/// is many times what reading it costs there.
const PAGES: &str = "
    WITH RECURSIVE pages (first) AS (
        SELECT min(registration) FROM devices
        UNION ALL
        SELECT first + 1000 FROM pages WHERE first + 1000 <= (SELECT max(registration) FROM devices)
    )
    SELECT (
        SELECT group_concat(
            registration || ' ' || name || ' ' || ifnull(hex(device_id), '') || ' '
                || ifnull(hex(ddns_key_hash), '') || ' ' || ifnull(hex(challenge_key_hash), ''),
            char(10)
        )
        FROM devices WHERE registration BETWEEN first AND first + 999
    ) FROM pages";

/// The keys of all devices, those of one beside each other.
const KEYS: &str = "SELECT registration, public_key FROM device_keys ORDER BY registration, rowid";

impl Store {
    /// Every device, in the order of registration.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let mut devices = Vec::new();
        self.each_device(|device| devices.push(device)).await?;
        Ok(devices)
    }

    /// Hands every device to `take`, in the order of registration, while the next ones are being read.
    ///
    /// # Errors
    /// If the database fails; some may have been handed over then.
    pub async fn each_device(&self, mut take: impl FnMut(Device)) -> Result<(), StoreError> {
        let mut moment = self.pool.begin().await?; // both queries see the same
        let mut keys = Keys::read(&mut moment).await?;
        let mut pages = sqlx::query(PAGES).fetch(&mut *moment);
        while let Some(page) = pages.try_next().await? {
            // A page of numbers that are no longer anybody's, or the only one of an empty table.
            let Some(page) = page.try_get::<Option<&str>, _>(0)? else {
                continue;
            };
            for line in page.lines() {
                take(device(line, &mut keys)?);
            }
        }
        Ok(())
    }
}

/// Public keys by registration, in its order.
struct Keys {
    keys: Vec<(u64, PublicKey)>,
    next: usize,
}

impl Keys {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged("public key");
        let mut rows = sqlx::query(KEYS).fetch(connection);
        let mut keys = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let registration = row.try_get::<i64, _>(0)?.try_into();
            let key = row.try_get::<&[u8], _>(1)?.try_into();
            let key = PublicKey::from_bytes(key.map_err(|_| damaged())?);
            keys.push((registration.map_err(|_| damaged())?, key));
        }
        Ok(Self { keys, next: 0 })
    }

    /// Those of the next registration.
    fn of(&mut self, registration: u64) -> impl Iterator<Item = PublicKey> {
        let rest = self.keys.get(self.next..).unwrap_or_default();
        let before = rest.partition_point(|(of, _)| *of < registration);
        let rest = rest.get(before..).unwrap_or_default();
        let count = rest.partition_point(|(of, _)| *of == registration);
        self.next += before + count;
        rest.iter().take(count).map(|(_, key)| *key)
    }
}

/// The device of a line: its registration, its name, and in hexadecimal its id and its keys of duty, where it has them.
fn device(line: &str, keys: &mut Keys) -> Result<Device, StoreError> {
    let mut fields = line.split(' ');
    let mut field = || fields.next().unwrap_or_default();
    let registration = field().parse();
    let registration = registration.map_err(|_| StoreError::Damaged("registration number"))?;
    let name = DeviceName::parse(field()).map_err(|_| StoreError::Damaged("device name"))?;
    let id = octets(field(), "device_id")?.map(DeviceId::from_bytes);
    let ddns_key = octets(field(), "ddns_key_hash")?.map(TokenHash::from_bytes);
    let challenge_key = octets(field(), "challenge_key_hash")?.map(TokenHash::from_bytes);
    let keys = keys.of(registration);
    Ok(Device {
        registration: RegistrationId(registration),
        name,
        identity: id.map(|id| Identity {
            id,
            keys: keys.collect(),
        }),
        ddns_key,
        challenge_key,
    })
}

fn octets<const N: usize>(
    hexadecimal: &str,
    column: &'static str,
) -> Result<Option<[u8; N]>, StoreError> {
    if hexadecimal.is_empty() {
        return Ok(None);
    }
    let mut octets = [0; N];
    if hexadecimal.len() != 2 * N {
        return Err(StoreError::Damaged(column));
    }
    let decoded = HEXUPPER.decode_mut(hexadecimal.as_bytes(), &mut octets);
    decoded.map_err(|_| StoreError::Damaged(column))?;
    Ok(Some(octets))
}

#[cfg(test)]
mod tests {
    use directory::{Duty, TokenHash};

    use super::super::tests::{LATER, NOW, code, key, name, store};

    #[tokio::test]
    async fn every_device_is_read_with_all_of_its_keys_and_nobody_elses() {
        let (_directory, store) = store().await;
        assert!(store.devices().await.unwrap().is_empty());
        let mut expected = Vec::new();
        for (number, text) in ["b", "a", "c"].into_iter().enumerate() {
            let device = store.register(&name(text), &code(text), NOW, LATER).await;
            expected.push(device.unwrap());
            if text != "a" {
                let key = key(u8::try_from(number).unwrap());
                expected[number] = store.pair(&code(text), &key, NOW).await.unwrap();
            }
        }
        // As during a rotation.
        sqlx::query("INSERT INTO device_keys (public_key, registration) VALUES ($1, $2)")
            .bind(key(9).as_bytes().as_slice())
            .bind(i64::try_from(expected[0].registration.0).unwrap())
            .execute(&store.pool)
            .await
            .unwrap();
        for duty in [Duty::Addresses, Duty::Challenges] {
            let key = TokenHash::of("secret");
            let device = store.set_key(&name("a"), duty, &key).await.unwrap();
            expected[1] = device.unwrap();
        }
        let identity = expected[0].identity.as_mut().unwrap();
        identity.keys.push(key(9));
        assert_eq!(store.devices().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn devices_with_far_numbers_between_them_are_all_read() {
        let (_directory, store) = store().await;
        let far = [1, 999, 1000, 1001, 1999, 5000, 12_001];
        for number in far {
            sqlx::query(
                "INSERT INTO devices (registration, name, registered_at) VALUES ($1, $2, 0)",
            )
            .bind(number)
            .bind(format!("nas{number}"))
            .execute(&store.pool)
            .await
            .unwrap();
        }
        let devices = store.devices().await.unwrap();
        let found: Vec<_> = devices.iter().map(|device| device.registration.0).collect();
        assert_eq!(found, far.map(|number| u64::try_from(number).unwrap()));
    }

    #[tokio::test]
    async fn a_row_that_makes_no_sense_is_an_error() {
        for (values, what) in [
            ("1, '-', NULL, NULL", "device name"),
            ("1, 'two words', NULL, NULL", "device_id"),
            ("1, 'a', x'00', NULL", "device_id"),
            ("1, 'a', NULL, x'0000'", "ddns_key_hash"),
            ("-1, 'a', NULL, NULL", "registration number"),
        ] {
            let (_directory, store) = store().await;
            let columns = "registration, name, device_id, ddns_key_hash, registered_at";
            let insert = format!("INSERT INTO devices ({columns}) VALUES ({values}, 0)");
            sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
                .execute(&store.pool)
                .await
                .unwrap();
            let error = store.devices().await.unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
