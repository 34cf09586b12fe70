//! What a server or a relay of ours counts itself, as it says on its `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long it may take to say so, on a machine with a load.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing was said that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("http://{0}/metrics says nothing of use: {1}")]
pub(crate) struct MetricsError(SocketAddr, String);

/// What one of them says at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks at `admin`.
    pub(crate) async fn ask(admin: SocketAddr) -> Result<Self, MetricsError> {
        let asked = timeout(PATIENCE, get(admin)).await;
        let body = asked.unwrap_or_else(|_| Err("it takes too long".to_owned()));
        body.map(Self).map_err(|why| MetricsError(admin, why))
    }

    /// The sum of all that begin with `series`: a name, and labels as far as they are to be the same. What is not there is 0.
    pub(crate) fn sum(&self, series: &str) -> f64 {
        let lines = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(series)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || series.contains('{') || labels.starts_with('{');
            is_it.then(|| value.parse::<f64>().ok())?
        });
        lines.sum()
    }
}

async fn get(admin: SocketAddr) -> Result<String, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(admin)
        .await
        .map_err(|error| words(&error))?;
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(|error| words(&error))?;
    let _drives = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = "/metrics".parse().unwrap_or_default();
    let host = admin
        .to_string()
        .parse()
        .map_err(|_| "no host".to_owned())?;
    request.headers_mut().insert(HOST, host);
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| words(&error))?;
    if !answer.status().is_success() {
        return Err(answer.status().to_string());
    }
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| words(&error))?.to_bytes();
    String::from_utf8(body.into()).map_err(|error| words(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_by_labels() {
        let metrics = Metrics(
            "# TYPE a_total counter\na_total{kind=\"x\",out=\"y\"} 2\na_total{kind=\"x\",out=\"z\"} 3\na_total_more 7\nb 4\n".to_owned(),
        );
        assert_eq!(metrics.sum("a_total"), 5.0);
        assert_eq!(metrics.sum("a_total{kind=\"x\",out=\"z\""), 3.0);
        assert_eq!((metrics.sum("b"), metrics.sum("c")), (4.0, 0.0));
    }
}
