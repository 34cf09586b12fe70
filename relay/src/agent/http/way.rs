//! By which way a visitor has come to `lan.` in front of the device's name. The cloud's page that tests whether a network lets that name
//! lead home asks: a script cannot see addresses, and where the device does not say that it is at home, the name leads to the relay.

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::{Answer, VisitorBody, say};
use crate::agent::services::Hosts;

/// Of that name alone; a service has it everywhere else.
const PATH: &str = "/.well-known/causeway/lan";

/// The answer, if that is what is asked. Anybody may read it.
pub(super) fn answer(
    request: &Request<VisitorBody>,
    is_direct: bool,
    hosts: &Hosts,
) -> Option<Answer> {
    if request.method() != Method::GET || request.uri().path() != PATH {
        return None;
    }
    let in_head = || request.headers().get(header::HOST)?.to_str().ok();
    let in_target = request.uri().authority().map(|of| of.as_str());
    let host = in_target.or_else(in_head)?;
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    hosts.is_lan(bare).then(|| {
        let way = if is_direct { "direct" } else { "relay" };
        let mut answer = say(StatusCode::OK, way);
        let anybody = HeaderValue::from_static("*");
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, anybody);
        answer
    })
}
