//! Plain HTTP gets one answer: come back over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use directory::{Place, Zone, host_of};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::{Limits, Silent};
use super::metrics::Metrics;

/// How long a visitor may take from its first octet to the last of our answer.
const VISIT_TIME: Duration = Duration::from_secs(5);

/// Of the places for those who have not said their name, redirects may have one of so many parts.
const PARTS: usize = 16;

/// The pause after the kernel could not hand over a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The default port of HTTPS, which a URL leaves out.
const HTTPS: u16 = 443;

/// Answers on `listener` until `stop`; sends visitors to the same host on `front`'s port.
pub(crate) async fn serve(
    listener: Arc<TcpListener>,
    zone: Zone,
    front: SocketAddr,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let visits = TaskTracker::new();
    // A small part of the places: the rest is for visitors of the front.
    let silent = Arc::new(Silent::at_one_of(PARTS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((visitor, address)) => match limits.admit(address.ip(), &silent) {
                Ok(admitted) => {
                    let (zone, silent) = (zone.clone(), Arc::clone(&silent));
                    visits.spawn(async move {
                        let _admitted = admitted;
                        tokio::select! {
                            biased; // whose answer is ready hears it
                            _ = timeout(VISIT_TIME, answer(visitor, zone, front.port())) => {}
                            () = silent.gives_way() => {}
                        }
                    });
                }
                Err(refusal) => {
                    // Redirects are no visits of the front; both are counted so that what is open there stays right.
                    metrics.visitor_accepted();
                    metrics.visitor_refused(refusal);
                }
            },
            Err(error) => {
                metrics.accept_error(&error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(visitor: TcpStream, zone: Zone, port: u16) -> hyper::Result<()> {
    let redirect = service_fn(move |request: Request<Incoming>| {
        let response = redirect(&request, &zone, port);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(visitor), redirect)
        .await
}

fn redirect<B>(request: &Request<B>, zone: &Zone, port: u16) -> Response<Full<Bytes>> {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let host = host_of(host);
    let answer = Response::builder().header(CONTENT_TYPE, "text/plain; charset=utf-8");
    let built = match zone.locate(host) {
        Place::Apex | Place::Operator(_) | Place::Relay(_) | Place::Device(_) => {
            let path = request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str());
            let port = if port == HTTPS {
                String::new()
            } else {
                format!(":{port}")
            };
            let target = format!("https://{}{port}{path}", host.to_ascii_lowercase());
            let body = format!("This host is reached over HTTPS: {target}\n");
            answer
                .status(StatusCode::PERMANENT_REDIRECT)
                .header(LOCATION, target)
                .body(body.into())
        }
        // Elsewhere would make this an open redirect.
        Place::Nobody | Place::Outside => {
            let body = format!("Only hosts under {zone} are served here.\n");
            answer
                .status(StatusCode::MISDIRECTED_REQUEST)
                .body(body.into())
        }
    };
    built.unwrap_or_else(|_| {
        let mut bad = Response::new(Full::from("The request target makes no sense.\n"));
        *bad.status_mut() = StatusCode::BAD_REQUEST;
        bad
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::server::LimitsConfig;

    fn to(host: &str, path: &str, port: u16) -> (StatusCode, Option<String>) {
        let request = Request::builder()
            .uri(path)
            .header(HOST, host)
            .body(())
            .unwrap();
        let response = redirect(&request, &Zone::parse("nas.localhost").unwrap(), port);
        let location = response
            .headers()
            .get(LOCATION)
            .map(|location| location.to_str().unwrap().to_owned());
        (response.status(), location)
    }

    #[test]
    fn the_same_page_over_https() {
        let (status, location) = to("Demo.NAS.localhost:8080", "/a?b=c", 8443);
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
        assert_eq!(location.unwrap(), "https://demo.nas.localhost:8443/a?b=c");
        assert_eq!(
            to("cloud.nas.localhost", "/", 443).1.unwrap(),
            "https://cloud.nas.localhost/"
        );
    }

    #[tokio::test]
    async fn a_visitor_over_the_limit_is_closed_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let limits = Limits::for_this_process(&LimitsConfig::default(), &metrics);
        let admitted = || limits.admit(address.ip(), &Silent::at_one_of(1)).ok();
        let _others: Vec<_> = std::iter::from_fn(admitted).collect();
        let zone = Zone::parse("nas.localhost").unwrap();
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        tokio::spawn(serve(
            Arc::new(listener),
            zone,
            address,
            limits.clone(),
            metrics,
            stop,
        ));

        let mut visitor = TcpStream::connect(address).await.unwrap();
        assert_eq!(visitor.read(&mut [0]).await.unwrap(), 0);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        let counted = "causeway_relay_visitors_refused_total{reason=\"address_busy\"} 1";
        assert!(text.unwrap().contains(counted));
    }

    #[test]
    fn no_redirect_leads_out_of_the_zone() {
        for host in [
            "",
            "example.com",
            "demo.nas.localhost.example.com",
            "demo.nas.localhost@example.com",
        ] {
            assert_eq!(
                to(host, "/", 8443),
                (StatusCode::MISDIRECTED_REQUEST, None),
                "{host}"
            );
        }
        assert_eq!(
            to("demo.nas.localhost", "//example.com/", 443).1.unwrap(),
            "https://demo.nas.localhost//example.com/"
        );
    }
}
