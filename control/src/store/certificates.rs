//! Which certificates logs have shown for names of the zone, and how far the logs have been followed.

use data_encoding::HEXLOWER;
use directory::DeviceName;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};
use transparency::Frontier;

use super::{Store, StoreError};
use crate::certificate_watch::{Found, Owner, SeenCertificate};

/// Of one name no more keys are kept: whoever has got so many certificates has been noticed.
const MOST_OF_NAME: i64 = 64;

/// Of all no more are kept, whatever a log invents.
const MOST: i64 = 1_000_000;

/// So many are given at once.
pub(crate) const PAGE: usize = 64;

/// What has become of certificates that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// For keys that were new under their name.
    pub(crate) new: u64,
    /// For which there was no room.
    pub(crate) full: u64,
}

/// How far a log has been followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownLog {
    /// What stands for its entries.
    pub(crate) frontier: Frontier,
    /// When it had them, in milliseconds since 1970, as it says.
    pub(crate) head_at: u64,
}

impl Store {
    /// Keeps what was found; of each key under each name the certificate that is good for longest. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn keep_certificates_seen(
        &self,
        found: &[Found],
        now: i64,
    ) -> Result<Kept, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        // What has ended harms nobody.
        sqlx::query("DELETE FROM certificates_seen WHERE not_after < $1")
            .bind(now / 1000)
            .execute(&mut *transaction)
            .await?;
        let mut all: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM certificates_seen")
            .fetch_one(&mut *transaction)
            .await?;
        let mut kept = Kept::default();
        for found in found {
            if found.certificate.not_after < now / 1000 {
                continue;
            }
            match keep(&mut transaction, found, now, all >= MOST).await? {
                Fate::Known => {}
                Fate::New => {
                    kept.new += 1;
                    all += 1;
                }
                Fate::Full => kept.full += 1,
            }
        }
        transaction.commit().await?;
        Ok(kept)
    }

    /// Those for `owner` after the one of that number, the oldest first, a [`PAGE`] at most; for a device also those that are for all.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn certificates_seen(
        &self,
        name: &DeviceName,
        after: u64,
        now: i64,
    ) -> Result<Vec<SeenCertificate>, StoreError> {
        let select = "SELECT * FROM certificates_seen WHERE name IN ($1, '*') AND number > $2 AND not_after >= $3 ORDER BY number LIMIT $4";
        let rows = sqlx::query(select)
            .bind(name.as_str())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(now / 1000)
            .bind(PAGE as i64)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(seen).collect()
    }

    /// The device that has `name` says that these, by their keys, are not its own, and no others are. Says how many of them are so for the
    /// first time.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn report_certificates(
        &self,
        name: &DeviceName,
        keys: &[[u8; 32]],
        now: i64,
    ) -> Result<u64, StoreError> {
        let keys: Vec<_> = keys.iter().map(|key| HEXLOWER.encode(key)).collect();
        let keys = serde_json::to_string(&keys).unwrap_or_default(); // a list of texts
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let withdraw = "UPDATE certificates_seen SET reported_at = NULL WHERE name = $1 AND reported_at IS NOT NULL \
                        AND lower(hex(key)) NOT IN (SELECT value FROM json_each($2))";
        sqlx::query(withdraw)
            .bind(name.as_str())
            .bind(&keys)
            .execute(&mut *transaction)
            .await?;
        let report = "UPDATE certificates_seen SET reported_at = $3 WHERE name IN ($1, '*') AND reported_at IS NULL \
                      AND lower(hex(key)) IN (SELECT value FROM json_each($2))";
        let reported = sqlx::query(report)
            .bind(name.as_str())
            .bind(&keys)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(reported.rows_affected())
    }

    /// Those that devices say are not their own, and those for the operator's names and for all, the newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn certificates_in_question(
        &self,
        now: i64,
    ) -> Result<Vec<SeenCertificate>, StoreError> {
        let select = "SELECT * FROM certificates_seen WHERE not_after >= $1 AND (reported_at IS NOT NULL OR name IN ('', '*')) \
                      ORDER BY number DESC LIMIT $2";
        let rows = sqlx::query(select)
            .bind(now / 1000)
            .bind(4 * PAGE as i64)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(seen).collect()
    }

    /// How far the log at `url` has been followed; `None` if it never was.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn certificate_log(&self, url: &str) -> Result<Option<KnownLog>, StoreError> {
        let select = "SELECT size, frontier, head_at FROM certificate_logs WHERE url = $1";
        let row = sqlx::query(select)
            .bind(url)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| {
            let damaged = || StoreError::Damaged("state of a certificate log");
            let size = u64::try_from(row.try_get::<i64, _>("size")?).map_err(|_| damaged())?;
            let head_at =
                u64::try_from(row.try_get::<i64, _>("head_at")?).map_err(|_| damaged())?;
            let frontier = Frontier::read(size, row.try_get("frontier")?).ok_or_else(damaged)?;
            Ok(KnownLog { frontier, head_at })
        })
        .transpose()
    }

    /// The log at `url` has been followed so far.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn keep_certificate_log(
        &self,
        url: &str,
        known: &KnownLog,
    ) -> Result<(), StoreError> {
        let put = "INSERT INTO certificate_logs (url, size, frontier, head_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (url) DO UPDATE SET size = excluded.size, frontier = excluded.frontier, head_at = excluded.head_at";
        sqlx::query(put)
            .bind(url)
            .bind(i64::try_from(known.frontier.size()).unwrap_or(i64::MAX))
            .bind(known.frontier.write())
            .bind(i64::try_from(known.head_at).unwrap_or(i64::MAX))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets how far all other logs have been followed.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn keep_logs_only(&self, urls: &[String]) -> Result<(), StoreError> {
        let urls = serde_json::to_string(urls).unwrap_or_default(); // a list of texts
        let forget =
            "DELETE FROM certificate_logs WHERE url NOT IN (SELECT value FROM json_each($1))";
        sqlx::query(forget).bind(urls).execute(&self.pool).await?;
        Ok(())
    }
}

enum Fate {
    Known,
    New,
    Full,
}

async fn keep(
    transaction: &mut Transaction<'_, Sqlite>,
    found: &Found,
    now: i64,
    is_full: bool,
) -> Result<Fate, StoreError> {
    let Found {
        owner,
        names,
        certificate,
        log,
        entry,
    } = found;
    let name = Owner::as_str(owner);
    let (key, not_after) = (certificate.key.0, certificate.not_after);
    let select =
        "SELECT not_after, reported_at FROM certificates_seen WHERE name = $1 AND key = $2";
    let known = sqlx::query_as::<_, (i64, Option<i64>)>(select)
        .bind(name)
        .bind(key.as_slice())
        .fetch_optional(&mut **transaction)
        .await?;
    let (fate, reported_at) = match known {
        Some((known, _)) if known >= not_after => return Ok(Fate::Known),
        Some((_, reported_at)) => (Fate::Known, reported_at),
        None => {
            let count = "SELECT COUNT(*) FROM certificates_seen WHERE name = $1";
            let of_name: i64 = sqlx::query_scalar(count)
                .bind(name)
                .fetch_one(&mut **transaction)
                .await?;
            if is_full || of_name >= MOST_OF_NAME {
                return Ok(Fate::Full);
            }
            (Fate::New, None)
        }
    };
    // One that is good for longer has a new number, so that its device hears of it.
    let put = "INSERT OR REPLACE INTO certificates_seen \
               (name, key, names, serial, issuer, not_before, not_after, log, entry, seen_at, reported_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    sqlx::query(put)
        .bind(name)
        .bind(key.as_slice())
        .bind(serde_json::to_string(names).unwrap_or_default()) // a list of texts
        .bind(&certificate.serial)
        .bind(&certificate.issuer)
        .bind(certificate.not_before)
        .bind(not_after)
        .bind(log)
        .bind(i64::try_from(*entry).unwrap_or(i64::MAX))
        .bind(now)
        .bind(reported_at)
        .execute(&mut **transaction)
        .await?;
    Ok(fate)
}

fn seen(row: &SqliteRow) -> Result<SeenCertificate, StoreError> {
    let damaged = || StoreError::Damaged("certificate that was seen");
    let number = |column| -> Result<u64, StoreError> {
        u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged())
    };
    Ok(SeenCertificate {
        number: number("number")?,
        owner: row.try_get("name")?,
        key: HEXLOWER.encode(row.try_get("key")?),
        names: serde_json::from_str(row.try_get("names")?).map_err(|_| damaged())?,
        serial: row.try_get("serial")?,
        issuer: row.try_get("issuer")?,
        not_before: row.try_get("not_before")?,
        not_after: row.try_get("not_after")?,
        log: row.try_get("log")?,
        entry: number("entry")?,
        reported: row.try_get::<Option<i64>, _>("reported_at")?.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use transparency::{Certificate, KeyHash};

    use super::super::tests::{NOW, name, store};
    use super::*;

    fn found(owner: Owner, key: u8, not_after: i64) -> Found {
        Found {
            owner,
            names: vec!["mynas.nas.localhost".to_owned()],
            certificate: Certificate {
                names: BTreeSet::new(),
                serial: "01".to_owned(),
                issuer: "CN=somebody".to_owned(),
                not_before: 0,
                not_after,
                key: KeyHash([key; 32]),
            },
            log: "https://ct.example".to_owned(),
            entry: 7,
        }
    }

    #[tokio::test]
    async fn of_each_key_the_certificate_that_is_good_for_longest_is_given_once() {
        let (_directory, store) = store().await;
        let mynas = name("mynas");
        let own = || Owner::Device(name("mynas"));
        let end = NOW / 1000 + 100;
        let keep = async |found: &[Found]| store.keep_certificates_seen(found, NOW).await.unwrap();
        let seen = async |after| store.certificates_seen(&mynas, after, NOW).await.unwrap();
        let all = [
            found(own(), 1, end),
            found(own(), 1, end),
            found(own(), 2, end),
            found(Owner::All, 3, end),
            found(Owner::Device(name("other")), 4, end),
            found(Owner::Operator, 5, end),
            found(own(), 6, NOW / 1000 - 1),
        ];
        assert_eq!(keep(&all).await, Kept { new: 5, full: 0 });
        let first = seen(0).await;
        let keys: Vec<_> = first.iter().map(|seen| &seen.key[..2]).collect();
        assert_eq!(keys, ["01", "02", "03"]);
        let last = first.last().unwrap().number;
        assert!(seen(last).await.is_empty());
        // A renewal is heard of, a copy in another log is not.
        let kept = keep(&[found(own(), 2, end), found(own(), 1, end + 1)]).await;
        assert_eq!(kept, Kept::default());
        let renewed = seen(last).await;
        assert_eq!(renewed.len(), 1);
        assert_eq!(renewed[0].not_after, end + 1);
    }

    #[tokio::test]
    async fn what_a_device_says_is_not_its_own_is_in_question_until_it_says_otherwise() {
        let (_directory, store) = store().await;
        let mynas = name("mynas");
        let own = || Owner::Device(name("mynas"));
        let end = NOW / 1000 + 100;
        let found = [
            found(own(), 1, end),
            found(own(), 2, end),
            found(Owner::All, 3, end),
        ];
        store.keep_certificates_seen(&found, NOW).await.unwrap();
        let report = async |keys: &[[u8; 32]]| {
            let reported = store.report_certificates(&mynas, keys, NOW);
            reported.await.unwrap()
        };
        let in_question = async || store.certificates_in_question(NOW).await.unwrap().len();
        assert_eq!(in_question().await, 1);
        assert_eq!(report(&[[2; 32], [3; 32], [9; 32]]).await, 2);
        assert_eq!(report(&[[2; 32], [3; 32]]).await, 0);
        assert_eq!(in_question().await, 2);
        assert_eq!(report(&[]).await, 0);
        assert_eq!(in_question().await, 1);
    }

    #[tokio::test]
    async fn nobody_fills_the_database_by_one_name() {
        let (_directory, store) = store().await;
        let end = NOW / 1000 + 100;
        let many: Vec<_> = (0..100)
            .map(|key| found(Owner::Device(name("mynas")), key, end))
            .collect();
        let kept = store.keep_certificates_seen(&many, NOW).await.unwrap();
        assert_eq!(kept, Kept { new: 64, full: 36 });
        let later = NOW + 200_000;
        let kept = store.keep_certificates_seen(&many, later).await.unwrap();
        assert_eq!(kept, Kept::default());
        let seen = store.certificates_seen(&name("mynas"), 0, NOW).await;
        assert!(seen.unwrap().is_empty(), "what has ended is gone");
    }

    #[tokio::test]
    async fn a_log_is_followed_on_from_where_it_was() {
        let (_directory, store) = store().await;
        let mut frontier = Frontier::default();
        for hash in 0..5 {
            frontier.append([hash; 32]);
            let known = KnownLog {
                frontier: frontier.clone(),
                head_at: u64::from(hash),
            };
            store
                .keep_certificate_log("https://a", &known)
                .await
                .unwrap();
            let kept = store.certificate_log("https://a").await.unwrap();
            assert_eq!(kept, Some(known));
        }
        store
            .keep_logs_only(&["https://b".to_owned()])
            .await
            .unwrap();
        assert_eq!(store.certificate_log("https://a").await.unwrap(), None);
    }
}
