//! The demo's clock over a WebSocket, for minutes, over both kinds of tunnel at the same time.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use relay::tls::{Roots, connect_https};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::world::{Place, Server};

const MINUTES: Duration = Duration::from_secs(130);

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_for_minutes() {
    let servers = [&[][..], &["--no-udp"]].map(|options| Server::start_with(Place::Host, options));
    let [quic, tls] = &servers;
    tokio::join!(listen(quic), listen(tls));
}

async fn listen(server: &Server) {
    let host = "demo.nas.localhost";
    let roots = Roots::from_pem(&std::fs::read_to_string(&server.ready.ca).unwrap()).unwrap();
    let stream = TcpStream::connect(server.ready.front).await.unwrap();
    let stream = connect_https(stream, host, &roots).await.unwrap();
    let url = format!("wss://{host}:{}/clock", server.ready.front.port());
    let (mut socket, _) = client_async(url, stream).await.unwrap();
    let until = Instant::now() + MINUTES;
    let mut ticks = 0;
    while Instant::now() < until {
        let heard = timeout(Duration::from_secs(5), socket.next())
            .await
            .expect("the clock has stopped");
        let Message::Text(text) = heard.unwrap().unwrap() else {
            continue;
        };
        assert!(text.parse::<u64>().unwrap() > 1_700_000_000_000);
        ticks += 1;
    }
    assert!(ticks >= MINUTES.as_secs() - 5, "{ticks} ticks");
    // And the other way, still.
    socket
        .send(Message::Text("are you there".into()))
        .await
        .unwrap();
    let echoed = async {
        while let Some(Ok(message)) = socket.next().await {
            if message == Message::Text("are you there".into()) {
                return;
            }
        }
        panic!("the socket has closed");
    };
    timeout(Duration::from_secs(5), echoed).await.unwrap();
    socket.close(None).await.unwrap();
}
