//! A port of this machine. Each connection to it gets one of its own to the service.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::device::Device;
use super::error::ConnectError;
use super::pass::{Connection, both_ways};

/// Connections at a time. Further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 1024;

/// The pause after the kernel could not hand over a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening port, and what is told of those who come to it and are not served.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tell: fn(&dyn std::fmt::Display),
}

impl Door {
    /// Listens at `address`. `tell` hears a sentence for each connection that comes to nothing.
    ///
    /// # Errors
    /// If it cannot be listened there.
    pub async fn open(address: SocketAddr, tell: fn(&dyn std::fmt::Display)) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, tell })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves whoever comes, by `serve`, for ever.
    pub(crate) async fn serve<Served, Error>(&self, serve: impl Fn(TcpStream) -> Served)
    where
        Served: Future<Output = Result<(), Error>> + Send + 'static,
        Error: std::fmt::Display + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        while let Ok(place) = Arc::clone(&room).acquire_owned().await {
            let accepted = loop {
                tokio::select! {
                    accepted = self.listener.accept() => break accepted,
                    Some(_) = tasks.join_next() => {}
                }
            };
            let Ok((app, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let _ = app.set_nodelay(true);
            let served = serve(app);
            let tell = self.tell;
            tasks.spawn(async move {
                let _place = place;
                if let Err(error) = served.await {
                    tell(&error);
                }
            });
        }
    }
}

/// Serves `service` of `device` at `door`, for ever.
pub async fn forward(door: &Door, device: &Device, service: &str) {
    door.serve(|app| {
        let (device, service) = (device.clone(), service.to_owned());
        async move {
            let connection = device.open(&service).await?;
            join(connection, app).await;
            Ok::<_, ConnectError>(())
        }
    })
    .await;
}

/// Joins the two until both have ended. How that goes is between the app and the service, but what was cut must not look complete.
pub(crate) async fn join(connection: Connection, mut app: TcpStream) {
    if both_ways(connection, &mut app).await.is_err() {
        let _ = app.set_zero_linger();
    }
}
