//! An app that has come for one of the services: it says which, and what passes then is between the two.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use wire::connect::{self, Answer, MAX_REQUEST};
use wire::frame::Open;

use super::pass;
use super::services::{Hosts, Service};
use super::stream::VisitorStream;

/// How long it may take to say which service it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves an app from its handshake to its end.
pub(super) async fn serve(
    mut app: TlsStream<VisitorStream>,
    open: &Open,
    hosts: &Hosts,
) -> io::Result<()> {
    let Some(service) = timeout(PATIENCE, asked(&mut app, hosts)).await?? else {
        hosts.refused.unknown_service();
        return say(app, Answer::Refused).await;
    };
    let dialled = service.origin.connect_plain(open.visitor, open.front);
    let mut origin = match dialled.await {
        Ok(origin) => origin,
        Err(error) => {
            service.unreachable(&error);
            return say(app, Answer::Unreachable).await;
        }
    };
    drop(service);
    timeout(PATIENCE, app.write_all(&[Answer::Granted.number()])).await??;
    let passed = pass::both_ways(app, &mut origin).await;
    if passed.is_err() {
        let _ = origin.set_zero_linger(); // a cut service does not look complete
    }
    passed
}

/// The service that it asks for; `None` if there is none for apps.
async fn asked(
    app: &mut TlsStream<VisitorStream>,
    hosts: &Hosts,
) -> io::Result<Option<Arc<Service>>> {
    let mut request = Vec::with_capacity(MAX_REQUEST);
    loop {
        // One octet too many would be the service's.
        request.push(app.read_u8().await?);
        match connect::read(&request) {
            Ok(Some(asked)) => return Ok(hosts.services.for_apps(asked.service)),
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
}

async fn say(mut app: TlsStream<VisitorStream>, answer: Answer) -> io::Result<()> {
    let said = async {
        app.write_all(&[answer.number()]).await?;
        app.shutdown().await
    };
    timeout(PATIENCE, said).await?
}
