//! What no name server can be faster than: the socket and the batches of ours, and the same answer whatever is asked.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// What every name has.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// As many as ours takes.
const BATCH: usize = 32;

/// As large as ours.
const BUFFER: usize = 4 << 20;
const MESSAGE: usize = 1232;

/// The header of a message (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// An A record (RFC 1035 section 3.2.1) of the question's name, a minute long, and an OPT record (RFC 6891 section 6.1.2).
const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
}

pub(super) fn play(order: Order) -> anyhow::Result<()> {
    let socket = Socket::new(
        Domain::for_address(order.listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&order.listen.into())?;
    // Sending leaves pointers of its own in the headers, so that those for receiving must be others.
    let mut incoming = MultiHeaders::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::preallocate(BATCH, None);
    let mut questions = Box::new([[0; MESSAGE]; BATCH]);
    let mut answers = Box::new([[0; MESSAGE]; BATCH]);
    loop {
        let (mut lengths, mut clients) = ([0; BATCH], [None; BATCH]);
        let count = receive(
            &socket,
            &mut incoming,
            &mut questions,
            &mut lengths,
            &mut clients,
        )?;
        let mut replies = [&[][..]; BATCH];
        let mut written = 0;
        for ((question, answer), (length, client)) in questions
            .iter()
            .zip(answers.iter_mut())
            .zip(lengths.into_iter().zip(clients))
            .take(count)
        {
            let question = question.get(..length).unwrap_or_default();
            if let Some(length) = write_answer(question, answer) {
                replies[written] = answer.get(..length).unwrap_or_default();
                clients[written] = client;
                written += 1;
            }
        }
        let slices = replies.map(|reply| [IoSlice::new(reply)]);
        let nothing: [ControlMessage<'_>; 0] = [];
        let flags = MsgFlags::empty();
        let (slices, clients) = (&slices[..written], &clients[..written]);
        let descriptor = socket.as_raw_fd();
        if written > 0 {
            // What could not be sent is lost, as at any server.
            let _ = sendmmsg(descriptor, &mut outgoing, slices, clients, nothing, flags);
        }
    }
}

/// Waits for one datagram and takes all that are there.
fn receive(
    socket: &Socket,
    headers: &mut MultiHeaders<SockaddrIn>,
    questions: &mut [[u8; MESSAGE]; BATCH],
    lengths: &mut [usize; BATCH],
    clients: &mut [Option<SockaddrIn>; BATCH],
) -> io::Result<usize> {
    let mut slices = questions.each_mut().map(|room| [IoSliceMut::new(room)]);
    let flags = MsgFlags::MSG_WAITFORONE;
    let received = match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None) {
        Ok(received) => received,
        Err(Errno::EINTR) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut count = 0;
    for ((length, client), message) in lengths.iter_mut().zip(clients).zip(received) {
        *length = message.bytes;
        *client = message
            .address
            .map(|address| SocketAddrV4::from(address).into());
        count += 1;
    }
    Ok(count)
}

/// The length of the answer to what is a question; nothing is said to anything else.
fn write_answer(question: &[u8], answer: &mut [u8; MESSAGE]) -> Option<usize> {
    let mut end = HEADER;
    while let length @ 1.. = *question.get(end)? {
        end += 1 + usize::from(length);
    }
    end += 5; // the root, type and class
    let asked = question.get(..end)?;
    let with_opt = *question.get(11)? == 1;
    answer.get_mut(..end)?.copy_from_slice(asked);
    // A response with authority, one question, one answer.
    answer[2] = 0x84 | asked.get(2)? & 1;
    answer[3] = 0;
    answer[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, u8::from(with_opt)]);
    let mut length = end;
    let parts: [&[u8]; 2] = [&RECORD, if with_opt { &OPT } else { &[] }];
    for part in parts {
        answer
            .get_mut(length..length + part.len())?
            .copy_from_slice(part);
        length += part.len();
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{question, shows};

    #[test]
    fn the_answer_has_the_question_and_the_address() {
        let question = question("a.bc").unwrap();
        let mut answer = [0; MESSAGE];
        let length = write_answer(&question, &mut answer).unwrap();
        let answer = &answer[..length];
        assert!(shows(answer, ADDRESS));
        assert_eq!(answer[12..22], question[12..22]);
        assert_eq!(&answer[2..12], [0x84, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        assert_eq!(length, question.len() + RECORD.len());
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let question = question("a.bc").unwrap();
        let mut answer = [0; MESSAGE];
        for length in 0..21 {
            assert_eq!(write_answer(&question[..length], &mut answer), None);
        }
    }
}
