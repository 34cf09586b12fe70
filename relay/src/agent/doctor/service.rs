//! The services that the running agent makes reachable: whether each takes a connection, and how soon it answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::proxy_v2;

use crate::agent::origin::{OriginAddress, Scheme};
use crate::agent::origin_asked;
use crate::agent::origin_failure::OriginFailure;
use crate::agent::status::{ServiceStatus, Status};
use crate::resolve::Resolver;
use crate::tls;

use super::finding::{Finding, Hop};

/// How long it may take to accept, its TLS included, and to begin an answer.
const CONNECT_TIME: Duration = Duration::from_secs(3);
const ANSWER_TIME: Duration = Duration::from_secs(8);

/// Nobody waits gladly for longer.
const SLOW: Duration = Duration::from_secs(2);

/// What came of asking it.
#[derive(Debug)]
enum Asked {
    Answered(Duration),
    NoName(io::Error),
    Refused,
    NotConnected(io::Error),
    NoTls(io::Error),
    NoAnswer(io::Error),
    Silent,
}

/// What a service is called: where there is one for all names, by its address alone.
pub(super) fn subject(service: &ServiceStatus) -> String {
    let address = service.origin.rsplit_once('/').map(|(_, address)| address);
    let address = address.unwrap_or(&service.origin);
    match service.name.as_str() {
        "*" => format!("service {address}"),
        name => format!("service {name} {address}"),
    }
}

/// Asks each service of the agent whose `status` this is, as a visitor would, for its first page. All at the same time.
pub(super) async fn examine(status: Option<&Status>) -> Vec<Finding> {
    let Some(Status {
        services, device, ..
    }) = status
    else {
        return vec![Hop::Service.unknown(
            "service",
            "only a running agent knows which it is",
            "start the agent, and ask again",
        )];
    };
    if services.is_empty() {
        return vec![Hop::Service.unknown(
            "service",
            "the agent that runs is older than this program, and does not say which it is",
            "start the agent anew, and ask again",
        )];
    }
    let mut asked = JoinSet::new();
    // Of one over UDP nobody can tell without its protocol.
    let services = services.iter().filter(|service| {
        let origin = service.origin.parse::<OriginAddress>();
        origin.is_ok_and(|origin| origin.scheme != Scheme::Udp)
    });
    for (place, service) in services.cloned().enumerate() {
        let host = match service.name.as_str() {
            "*" | "@" => device.clone(),
            name => format!("{name}.{device}"),
        };
        asked.spawn(async move { (place, judged(&service, ask(&service, &host).await)) });
    }
    let mut findings = asked.join_all().await;
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

async fn ask(service: &ServiceStatus, host: &str) -> Asked {
    let Ok(origin) = service.origin.parse::<OriginAddress>() else {
        return Asked::NoName(io::ErrorKind::InvalidInput.into());
    };
    let begun = Instant::now();
    let connected = Resolver::System.connect(&origin.host, origin.port);
    let stream = match timeout(CONNECT_TIME, connected).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Asked::not_connected(error),
        Err(late) => return Asked::NotConnected(late.into()),
    };
    let stream = match with_header(stream, service.proxy_header).await {
        Ok(stream) => stream,
        Err(error) => return Asked::NotConnected(error),
    };
    match origin.scheme {
        Scheme::Http | Scheme::H2c => answer(stream, origin.scheme, host, begun).await,
        Scheme::Https | Scheme::H2 => {
            let protocol = match origin.scheme.is_http2() {
                true => tls::HTTP2,
                false => tls::HTTP1,
            };
            let shaken = tls::connect_unchecked(stream, &origin.host, protocol);
            let shaken = timeout(CONNECT_TIME, shaken).await;
            match shaken.unwrap_or_else(|late| Err(late.into())) {
                Ok(stream) => answer(stream, origin.scheme, host, begun).await,
                Err(error) => Asked::NoTls(error),
            }
        }
        // Of these it is not known who speaks first.
        Scheme::Tcp | Scheme::Tls | Scheme::Udp => Asked::Answered(begun.elapsed()),
    }
}

/// The header that the service expects before all else, of a visitor on this device.
async fn with_header(mut stream: TcpStream, is_wanted: bool) -> io::Result<TcpStream> {
    if is_wanted {
        let here: SocketAddr = (Ipv4Addr::LOCALHOST, 443).into();
        stream.write_all(&proxy_v2::encode(here, here)).await?;
    }
    Ok(stream)
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: Scheme,
    host: &str,
    begun: Instant,
) -> Asked {
    let answered = origin_asked::get(stream, scheme, host, "/");
    match timeout(ANSWER_TIME, answered).await {
        Ok(Ok(_)) => Asked::Answered(begun.elapsed()), // whatever it says
        Ok(Err(error)) => Asked::NoAnswer(error),
        Err(_) => Asked::Silent,
    }
}

impl Asked {
    fn not_connected(error: io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::ConnectionRefused {
            Self::Refused
        } else if kind == io::ErrorKind::NotFound {
            Self::NoName(error)
        } else {
            Self::NotConnected(error)
        }
    }
}

fn judged(service: &ServiceStatus, asked: Asked) -> Finding {
    let subject = subject(service);
    let address = service.origin.rsplit_once('/').map(|(_, address)| address);
    let address = address.unwrap_or_default();
    let ill = |words: String, mend: String| Hop::Service.ill(&*subject, words, mend);
    let of = |failure: OriginFailure, words: String| ill(words, failure.mend().to_owned());
    match asked {
        Asked::Refused => of(OriginFailure::Refused, "nobody listens there".to_owned()),
        Asked::NoName(error) => ill(
            format!("its host is not found: {error}"),
            "name it by an address".to_owned(),
        ),
        Asked::NotConnected(error) => of(
            OriginFailure::Unreachable,
            format!("it takes no connection: {error}"),
        ),
        Asked::NoTls(error) => ill(
            format!("it does not speak TLS: {error}"),
            format!("if it speaks HTTP in clear, its origin is http://{address}"),
        ),
        Asked::NoAnswer(error) => ill(
            format!("it takes a request and gives no answer: {error}"),
            format!(
                "see what the service's log says; if it speaks TLS, its origin is https://{address}"
            ),
        ),
        Asked::Silent => of(
            OriginFailure::NoAnswer,
            format!(
                "it takes a request and does not begin to answer within {} s",
                ANSWER_TIME.as_secs()
            ),
        ),
        Asked::Answered(time) => match &service.problem {
            Some(problem) => {
                let failure = OriginFailure::of_words(problem);
                let mend = failure.map_or("see what the service's log says", OriginFailure::mend);
                ill(
                    format!(
                        "it answers just now; when a visitor asked last, there was none: {problem}"
                    ),
                    mend.to_owned(),
                )
            }
            None if time > SLOW => Hop::Service.slow(
                &*subject,
                format!(
                    "it takes {:.1} s to begin an answer, on this device itself",
                    time.as_secs_f64()
                ),
                "it is not the way: see what keeps the service or its disks busy (`top`)",
            ),
            None => {
                let is_http = service.origin.starts_with("http");
                let does = if is_http {
                    "answers"
                } else {
                    "takes a connection"
                };
                let words = format!("{does} after {} ms", time.as_millis());
                Hop::Service.well(subject, words)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::finding::Health;
    use super::*;

    fn service(name: &str, scheme: &str, problem: Option<&str>) -> ServiceStatus {
        ServiceStatus {
            public: None,
            name: name.to_owned(),
            origin: format!("{scheme}://127.0.0.1:80"),
            proxy_header: false,
            http3: None,
            reach: "name".to_owned(),
            health: None,
            problem: problem.map(str::to_owned),
            failures: BTreeMap::new(),
        }
    }

    #[test]
    fn a_service_is_called_by_its_name_where_there_are_several() {
        assert_eq!(subject(&service("*", "http", None)), "service 127.0.0.1:80");
        assert_eq!(
            subject(&service("photos", "https", None)),
            "service photos 127.0.0.1:80"
        );
    }

    #[test]
    fn a_service_is_as_it_answers() {
        let after = |time| judged(&service("*", "http", None), Asked::Answered(time)).health;
        assert_eq!(after(Duration::from_millis(20)), Health::Well);
        assert_eq!(after(Duration::from_secs(3)), Health::Slow);
        let answered = || Asked::Answered(Duration::ZERO);
        let distrusted = judged(
            &service("*", "https", Some("the connection to it fails")),
            answered(),
        );
        assert_eq!(distrusted.health, Health::Ill);
        assert!(distrusted.mend.unwrap().contains("--origin-ca"));
    }
}
