//! The cloud, which renews the device's certificate and says where relays are, and the clock of this device beside the cloud's.

use std::io;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::agent::cloud::Cloud;
use crate::http_client;
use crate::resolve::Resolver;
use crate::tls::{self, Roots};

use super::finding::{Finding, Hop};
use super::trouble::Trouble;

const CLOCK: &str = "clock";

/// How long the cloud may take to answer; its name is looked up in less.
const PATIENCE: Duration = Duration::from_secs(6);

/// The cloud takes no call that was signed earlier or later than that by its own clock.
const LEEWAY: Duration = Duration::from_secs(5 * 60);

/// What the cloud has said, and when by this device's clock.
#[derive(Clone, Copy)]
struct Clocks {
    cloud: SystemTime,
    own: SystemTime,
}

/// Looks at the cloud whose certificate `roots` vouch for.
pub(super) async fn examine(cloud: &Cloud, resolver: Resolver, roots: &Roots) -> Vec<Finding> {
    let (host, port) = cloud.place();
    let subject = format!("cloud {host}:{port}");
    let answered = in_time(async {
        let stream = resolver.connect(host, port).await?;
        clocks(tls::connect_https(stream, host, roots).await?, host).await
    });
    let error = match answered.await {
        Ok(clocks) => {
            return vec![
                Hop::Relay.well(subject, "answers"),
                clocks.map_or_else(|| unknown("it says no time"), Clocks::judged),
            ];
        }
        Err(error) => error,
    };
    let trouble = Trouble::of_connection(&error);
    if trouble != Trouble::Clock {
        let words = format!("{error}: certificates are not renewed, and changes are not heard");
        let cloud = Hop::Relay.slow(subject, words, trouble.mend(port));
        return vec![cloud, unknown("the cloud does not answer")];
    }
    // By its certificate it is not known for itself. What time it says is a hint for a person, and nothing else is asked of it.
    let unchecked = in_time(async {
        let stream = resolver.connect(host, port).await?;
        clocks(
            tls::connect_unchecked(stream, host, tls::HTTP1).await?,
            host,
        )
        .await
    });
    match unchecked.await {
        Ok(Some(clocks)) if clocks.difference() > LEEWAY => vec![
            clocks.judged(),
            Hop::Relay.ill(subject, error.to_string(), trouble.mend(port)),
        ],
        Ok(Some(clocks)) => {
            let mend = "the operator has to renew the certificates of relay and cloud";
            vec![
                clocks.judged(),
                Hop::Relay.ill(subject, error.to_string(), mend),
            ]
        }
        Ok(None) | Err(_) => vec![
            unknown("the cloud says no time"),
            Hop::Relay.ill(subject, error.to_string(), trouble.mend(port)),
        ],
    }
}

async fn in_time<T>(answered: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, answered).await.unwrap_or_else(|_| {
        let words = format!("no answer within {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
    })
}

/// Asks for something that there need not be: each answer says the time (RFC 9110 section 6.6.1).
async fn clocks(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
) -> io::Result<Option<Clocks>> {
    let request = Request::builder()
        .method(Method::HEAD)
        .uri("/")
        .header(HOST, host)
        .body(Full::<Bytes>::default())
        .map_err(io::Error::other)?;
    let answer = http_client::open(stream, request).await?;
    let own = SystemTime::now();
    Ok(answer.date().map(|cloud| Clocks { cloud, own }))
}

impl Clocks {
    fn difference(self) -> Duration {
        let ahead = self.own.duration_since(self.cloud);
        ahead.unwrap_or_else(|behind| behind.duration())
    }

    fn judged(self) -> Finding {
        let difference = self.difference();
        if difference <= LEEWAY {
            return Hop::Device.well(CLOCK, "goes as the cloud's does");
        }
        let way = match self.own > self.cloud {
            true => "ahead of",
            false => "behind",
        };
        let by = humantime::format_duration(Duration::from_secs(difference.as_secs()));
        Hop::Device.ill(
            CLOCK,
            format!(
                "it is {by} {way} the cloud's: certificates seem to have ended or not begun, and what is signed for the cloud is signed by the cloud's"
            ),
            "set it, and have it kept right: `timedatectl set-ntp true`, or NTP in the settings of the NAS; where it is wrong again \
             after each start, the battery of the clock is empty",
        )
    }
}

fn unknown(why: &str) -> Finding {
    Hop::Device.unknown(
        CLOCK,
        format!("{why}, so there is nothing to compare it with"),
        "compare it with another clock (`date -u`)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    #[test]
    fn only_a_clock_that_the_cloud_does_not_bear_with_is_wrong() {
        let cloud = SystemTime::now();
        let judged = |own| Clocks { cloud, own }.judged();
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!(judged(cloud + minutes(5)).health, Health::Well);
        assert_eq!(judged(cloud - minutes(5)).health, Health::Well);
        let ahead = judged(cloud + minutes(125));
        assert_eq!(ahead.health, Health::Ill);
        assert!(ahead.words.contains("2h 5m ahead of"), "{}", ahead.words);
        let behind = judged(cloud - minutes(6));
        assert!(behind.words.contains("6m behind"), "{}", behind.words);
    }
}
