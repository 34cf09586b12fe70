//! What a hop costs at least: one thread that accepts, dials, and splices both ways, edge-triggered and without a look at
//! what passes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    listen, shutdown, socket_with, sockopt::set_tcp_nodelay,
};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use serde::{Deserialize, Serialize};

/// What the kernel lets anybody have.
const PIPE: usize = 1 << 20;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How many events are taken at once.
const EVENTS: usize = 256;

/// Events of the listener; those of a visitor have its index.
const LISTENER: u64 = u64::MAX;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens; port 0 for any.
    pub(crate) listen: SocketAddr,
    /// Where everything goes.
    pub(crate) to: SocketAddr,
}

/// Where it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

pub(super) fn play(
    Order {
        listen: address,
        to,
    }: Order,
) -> anyhow::Result<()> {
    let listener = socket()?;
    bind(&listener, &address)?;
    listen(&listener, BACKLOG)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
    super::say(&Ready {
        address: getsockname(&listener)?.try_into()?,
    })?;
    let mut hop = Hop {
        epoll,
        listener,
        to,
        visitors: Vec::new(),
        free: Vec::new(),
        pipes: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        match epoll::wait(&hop.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => hop.accept()?,
                // An event of a visitor who has just gone may be taken for the next one's, who then has nothing yet.
                index => hop.pump(index as usize),
            }
        }
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)
}

struct Hop {
    epoll: OwnedFd,
    listener: OwnedFd,
    to: SocketAddr,
    visitors: Vec<Option<Visitor>>,
    /// Indices of visitors who have gone.
    free: Vec<usize>,
    /// Empty ones.
    pipes: Vec<Pipe>,
}

/// A visitor's connection, the one that goes on, and what is on its way between them.
struct Visitor {
    near: OwnedFd,
    far: OwnedFd,
    outwards: Direction,
    inwards: Direction,
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Held only while something is in it.
    pipe: Option<Pipe>,
    filled: usize,
    ended: bool,
    shut: bool,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Hop {
    /// Takes everybody who waits.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let near = match accept_with(&self.listener, FLAGS) {
                Ok(near) => near,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let far = socket()?;
            set_tcp_nodelay(&near, true)?;
            set_tcp_nodelay(&far, true)?;
            match connect(&far, &self.to) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(error.into()),
            }
            let index = self.free.pop().unwrap_or(self.visitors.len());
            for side in [&near, &far] {
                epoll::add(
                    &self.epoll,
                    side,
                    epoll::EventData::new_u64(index as u64),
                    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
                )?;
            }
            let visitor = Some(Visitor {
                near,
                far,
                outwards: Direction::default(),
                inwards: Direction::default(),
            });
            match self.visitors.get_mut(index) {
                Some(place) => *place = visitor,
                None => self.visitors.push(visitor),
            }
        }
    }

    /// Moves what can be moved, and lets the visitor go once both directions have ended or one has broken.
    fn pump(&mut self, index: usize) {
        let Some(Some(visitor)) = self.visitors.get_mut(index) else {
            return;
        };
        let Visitor {
            near,
            far,
            outwards,
            inwards,
        } = visitor;
        let pumped = outwards
            .pump(near, far, &mut self.pipes)
            .and_then(|()| inwards.pump(far, near, &mut self.pipes));
        if pumped.is_err() || (outwards.shut && inwards.shut) {
            self.visitors[index] = None;
            self.free.push(index);
        }
    }
}

impl Direction {
    /// Until neither end has more to give or to take: only then comes another event.
    fn pump(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        pipes: &mut Vec<Pipe>,
    ) -> rustix::io::Result<()> {
        loop {
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => match pipes.pop() {
                    Some(pipe) => pipe,
                    None => Pipe::new()?,
                },
            };
            let pipe = self.pipe.insert(pipe);
            let mut moved = false;
            if !self.ended {
                match pass(from, &pipe.write, PIPE)? {
                    Some(0) => self.ended = true,
                    Some(filled) => {
                        self.filled += filled;
                        moved = true;
                    }
                    None => {}
                }
            }
            if self.filled > 0
                && let Some(drained) = pass(&pipe.read, to, self.filled)?
            {
                self.filled -= drained;
                moved = true;
            }
            if !moved {
                break;
            }
        }
        if self.filled == 0 {
            pipes.extend(self.pipe.take());
            if self.ended && !self.shut {
                shutdown(to, Shutdown::Write)?;
                self.shut = true;
            }
        }
        Ok(())
    }
}

impl Pipe {
    fn new() -> rustix::io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does it too.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Ok(Self { read, write })
    }
}

/// `None` if one end has to be waited for: for its octets, for room, or until it is connected.
fn pass(from: &OwnedFd, to: &OwnedFd, limit: usize) -> rustix::io::Result<Option<usize>> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    match splice(from.as_fd(), None, to.as_fd(), None, limit, flags) {
        Ok(passed) => Ok(Some(passed)),
        Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}
