//! What a server or a relay of ours counts itself, as it says on its `/metrics`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use relay::http_client::exchange;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// All of it is less, in octets.
const MOST: usize = 4 << 20;

/// How long it may take to say so, on a machine with a load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing was said that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("http://{0}/metrics says nothing of use: {1}")]
pub(crate) struct MetricsError(SocketAddr, io::Error);

/// What one of them says at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks at `admin`.
    pub(crate) async fn ask(admin: SocketAddr) -> Result<Self, MetricsError> {
        let asked = timeout(PATIENCE, get(admin)).await;
        let told = asked.unwrap_or_else(|late| Err(late.into()));
        told.map(Self).map_err(|why| MetricsError(admin, why))
    }

    /// The sum of all that begin with `series`: a name, and labels as far as they are to be the same. What is not there is 0.
    pub(crate) fn sum(&self, series: &str) -> f64 {
        self.of(series).map(|(_, value)| value).sum()
    }

    /// The same one by one, each with its name and all of its labels.
    pub(crate) fn of(&self, series: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (one, value) = line.rsplit_once(' ')?;
            let labels = one.strip_prefix(series)?;
            let is_it = labels.is_empty() || series.contains('{') || labels.starts_with('{');
            is_it.then(|| Some((one, value.parse().ok()?)))?
        })
    }
}

#[cfg(test)]
impl From<String> for Metrics {
    fn from(text: String) -> Self {
        Self(text)
    }
}

async fn get(admin: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(admin).await?;
    let request = Request::get("/metrics").header(HOST, admin.to_string());
    let request = request.body(Full::default()).map_err(io::Error::other)?;
    let (status, body) = exchange(stream, request, MOST).await?;
    if !status.is_success() {
        return Err(io::Error::other(format!("it answers {status}")));
    }
    String::from_utf8(body.into()).map_err(io::Error::other)
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
