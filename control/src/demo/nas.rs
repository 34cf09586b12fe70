//! The demo NAS: a page with files to download and upload, and a clock that ticks over a WebSocket.
//!
//! What visitors upload lives in files without a name, in the system's temporary directory: when the demo ends, however it
//! ends, nothing of them is left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::{StreamExt as _, unfold};
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::time::interval;
use tokio_util::io::ReaderStream;
use tower_http::set_header::SetResponseHeaderLayer;

/// Files at a time, samples included.
const MAX_FILES: usize = 100;

/// Octets of all uploads together: what a demo may take of somebody's disk.
const MAX_UPLOADED: u64 = 4 * 1024 * 1024 * 1024;

/// A file name's length in octets, as on most file systems.
const MAX_NAME: usize = 255;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const WELCOME: &str = include_str!("../../pages/demo-welcome.txt");

/// For measuring a download: 100 MiB that are made while they are sent.
const SPEED_TEST: u64 = 100 * 1024 * 1024;

#[derive(Debug)]
enum Content {
    Text(&'static str),
    /// Zeros, of so many octets.
    Zeros(u64),
    /// In a file without a name.
    Uploaded(Arc<File>, Room),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Zeros(size) => *size,
            Self::Uploaded(_, room) => room.taken,
        }
    }
}

/// What the NAS holds.
#[derive(Clone, Debug)]
struct Shelf {
    files: Arc<Mutex<BTreeMap<String, Content>>>,
    /// Octets of all uploads, those on their way included.
    uploaded: Arc<AtomicU64>,
}

impl Shelf {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a new upload; none yet.
    fn room(&self) -> Room {
        Room {
            uploaded: Arc::clone(&self.uploaded),
            taken: 0,
        }
    }
}

/// What one upload takes of [`MAX_UPLOADED`], until it is dropped.
#[derive(Debug)]
struct Room {
    uploaded: Arc<AtomicU64>,
    taken: u64,
}

impl Room {
    /// Takes so many octets more. Says whether they were left.
    fn take(&mut self, octets: u64) -> bool {
        let fits = |uploaded: u64| {
            let sum = uploaded.checked_add(octets)?;
            (sum <= MAX_UPLOADED).then_some(sum)
        };
        let taken = self.uploaded.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if taken {
            self.taken += octets;
        }
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.uploaded.fetch_sub(self.taken, Relaxed);
    }
}

/// The demo NAS's routes.
pub(super) fn router() -> Router {
    let always =
        |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    let samples = [
        ("welcome.txt".to_owned(), Content::Text(WELCOME)),
        ("100-mebibytes.bin".to_owned(), Content::Zeros(SPEED_TEST)),
    ];
    let shelf = Shelf {
        files: Arc::new(Mutex::new(samples.into_iter().collect())),
        uploaded: Arc::default(),
    };
    Router::new()
        .route("/", get(page))
        .route("/files", get(list))
        .route("/files/{name}", get(download).put(upload))
        .route("/clock", get(clock))
        .route(
            "/style.css",
            get((
                [(CONTENT_TYPE, "text/css")],
                include_str!("../../pages/style.css"),
            )),
        )
        .route(
            "/demo.js",
            get((
                [(CONTENT_TYPE, "text/javascript")],
                include_str!("../../pages/demo.js"),
            )),
        )
        .layer(DefaultBodyLimit::disable()) // an upload is as long as the NAS has room for
        .layer(always(CONTENT_SECURITY_POLICY, POLICY))
        .layer(always(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(always(CACHE_CONTROL, "no-store"))
        .with_state(shelf)
}

#[derive(Template)]
#[template(path = "demo.html")]
struct DemoPage<'a> {
    zone: &'a str,
    visitor: &'a str,
}

async fn page(headers: HeaderMap) -> Response {
    let header = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let page = DemoPage {
        zone: header("x-forwarded-host").unwrap_or("a demo"),
        visitor: header("x-forwarded-for").unwrap_or("unknown"),
    };
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Serialize)]
struct Listed {
    name: String,
    size: u64,
}

async fn list(State(shelf): State<Shelf>) -> Json<Vec<Listed>> {
    let files = shelf.files();
    Json(
        files
            .iter()
            .map(|(name, content)| Listed {
                name: name.clone(),
                size: content.size(),
            })
            .collect(),
    )
}

async fn download(State(shelf): State<Shelf>, Path(name): Path<String>) -> Response {
    let (size, body) = {
        let files = shelf.files();
        let Some(content) = files.get(&name) else {
            return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response();
        };
        (content.size(), body(content))
    };
    match body {
        Ok(body) => (
            [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_LENGTH, size.to_string()),
                (CONTENT_DISPOSITION, "attachment".to_owned()),
            ],
            body,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn body(content: &Content) -> io::Result<Body> {
    const PORTION: u64 = 64 * 1024;
    static ZEROS: [u8; PORTION as usize] = [0; PORTION as usize];
    Ok(match content {
        Content::Text(text) => Body::from(*text),
        Content::Zeros(size) => Body::from_stream(unfold(*size, |left| async move {
            let portion = left.min(PORTION);
            let octets = Bytes::from_static(&ZEROS[..portion as usize]);
            (portion > 0).then_some((Ok::<_, io::Error>(octets), left - portion))
        })),
        Content::Uploaded(file, _) => {
            // Opened anew, so that each download has a position of its own.
            let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            Body::from_stream(ReaderStream::with_capacity(
                tokio::fs::File::from_std(again),
                PORTION as usize,
            ))
        }
    })
}

async fn upload(State(shelf): State<Shelf>, Path(name): Path<String>, body: Body) -> Response {
    if !is_file_name(&name) {
        // Read to its end, because some clients do not see an answer that comes before it.
        body.into_data_stream().for_each(async |_| ()).await;
        return (StatusCode::BAD_REQUEST, "This is no file name.\n").into_response();
    }
    let is_full = {
        let files = shelf.files();
        files.len() >= MAX_FILES && !files.contains_key(&name)
    };
    if is_full {
        return (
            StatusCode::INSUFFICIENT_STORAGE,
            "The demo keeps no more files.\n",
        )
            .into_response();
    }
    match receive(body, shelf.room()).await {
        Ok((file, room)) => {
            let size = room.taken;
            let mut files = shelf.files();
            files.insert(name, Content::Uploaded(Arc::new(file), room));
            (StatusCode::CREATED, format!("{size} octets\n")).into_response()
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => (
            StatusCode::INSUFFICIENT_STORAGE,
            "The demo has no room for this file.\n",
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn receive(body: Body, mut room: Room) -> io::Result<(File, Room)> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile()?);
    let mut portions = body.into_data_stream();
    while let Some(portion) = portions.next().await {
        let portion = portion.map_err(io::Error::other)?;
        if !room.take(portion.len() as u64) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        file.write_all(&portion).await?;
    }
    file.flush().await?;
    Ok((file.into_std().await, room))
}

fn is_file_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
}

async fn clock(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(1024).on_upgrade(tick)
}

/// Says the time each second, and gives back what it is told, until the visitor leaves.
async fn tick(mut socket: WebSocket) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        let sent = tokio::select! {
            _ = seconds.tick() => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                socket.send(Message::Text(now.as_millis().to_string().into())).await
            }
            heard = socket.recv() => match heard {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_on_their_way_share_the_room_and_give_it_back() {
        let shelf = Shelf {
            files: Arc::default(),
            uploaded: Arc::default(),
        };
        let (mut first, mut second) = (shelf.room(), shelf.room());
        assert!(first.take(MAX_UPLOADED - 1));
        assert!(!second.take(2));
        assert!(second.take(1));
        drop(first);
        assert!(second.take(MAX_UPLOADED - 1));
        assert!(!shelf.room().take(1));
    }

    #[test]
    fn file_names_stay_in_their_folder() {
        for good in ["a", "holiday photos.zip", "été.jpg"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".profile",
            "a/b",
            "a\\b",
            "a\nb",
            &"a".repeat(256),
        ] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }
}
