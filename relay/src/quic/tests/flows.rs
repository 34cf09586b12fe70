//! Visitors' datagrams in a tunnel.

use tokio::sync::mpsc;

use super::*;

/// An outlet that tells what it takes: each batch, and the size of its datagrams.
struct Told(mpsc::Sender<(Vec<u8>, usize)>);

impl Outlet for Told {
    fn take(&self, batch: Batch<'_>, _: TunnelSocket<'_>) {
        let _ = self.0.try_send((batch.octets.to_vec(), batch.size));
    }
}

struct Nowhere;

impl Outlet for Nowhere {
    fn take(&self, _: Batch<'_>, _: TunnelSocket<'_>) {}
}

/// Both ends of a flow: the way in at the relay, and what is told at the agent.
struct Flowing {
    send: SendStream,
    flow: Flow,
    _opened: Opened,
    told: mpsc::Receiver<(Vec<u8>, usize)>,
    at_agent: (SendStream, RecvStream, Opened),
}

async fn flow(pair: &Pair) -> Flowing {
    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    let (flow, opened) = send.flow(Arc::new(Nowhere));
    send.write_all(b"?").await.unwrap();
    let (answer, question) = pair.at_agent.accept_bi().await.unwrap();
    let (tells, told) = mpsc::channel(1000);
    let (_, heard) = answer.flow(Arc::new(Told(tells)));
    Flowing {
        send,
        flow,
        _opened: opened,
        told,
        at_agent: (answer, question, heard),
    }
}

impl Flowing {
    /// So many octets that have been told.
    async fn heard(&mut self, octets: usize) -> Vec<(Vec<u8>, usize)> {
        let (mut heard, mut left) = (Vec::new(), octets);
        while left > 0 {
            let batch = timeout(PATIENCE, self.told.recv()).await;
            let batch = batch.expect("in time").unwrap();
            left = left.saturating_sub(batch.0.len());
            heard.push(batch);
        }
        heard
    }
}

/// Waits until the tunnel knows that its path is wide enough: it begins with the least that any path has, and finds more.
async fn until_wide(pair: &Pair, is_wide: impl Fn() -> bool) {
    let found = async {
        while !is_wide() {
            pair.at_relay.ping(); // the library looks for more when there is something to say
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, found).await.expect("in time");
}

#[tokio::test]
async fn each_flow_has_its_own_datagrams_and_those_that_are_alike_come_together() {
    let pair = pair().await;
    let (mut one, mut other) = (flow(&pair).await, flow(&pair).await);
    let payload: Vec<u8> = (0..20 * 1000 + 300_u32)
        .map(|at| (at % 251) as u8)
        .collect();
    let batch = Batch {
        octets: &payload,
        size: 1000,
    };
    one.flow.send(batch);
    other.flow.send(Batch {
        octets: &payload[..5000],
        size: 500,
    });
    other.flow.send(Batch::of_one(b"short"));
    let heard = one.heard(payload.len()).await;
    assert!(heard.iter().all(|(_, size)| [1000, 300].contains(size)));
    assert!(heard.len() < 21, "{} batches", heard.len());
    let whole: Vec<u8> = heard.into_iter().flat_map(|(octets, _)| octets).collect();
    assert!(whole == payload);
    let heard = other.heard(5005).await;
    let whole: Vec<u8> = heard
        .iter()
        .flat_map(|(octets, _)| octets.clone())
        .collect();
    assert!(whole == [&payload[..5000], b"short"].concat());
    assert!(one.told.try_recv().is_err() && other.told.try_recv().is_err());
}

#[tokio::test]
async fn what_is_lost_is_counted_by_its_reason() {
    let lost = Arc::<Lost>::default();
    let pair = Ends::losing(Arc::clone(&lost)).connect().await;
    let mut flow = flow(&pair).await;
    flow.flow.send(Batch::of_one(&[7; 2000]));
    assert_eq!(
        lost.0.lock().unwrap().drain(..).as_slice(),
        [(Loss::TooLarge, 1)]
    );

    // More than fits, before the driver has had a turn: the newest stay.
    let size = 1000;
    let many: Vec<u8> = (0..700_u32)
        .flat_map(|number| {
            let mut datagram = vec![0; size];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            datagram
        })
        .collect();
    flow.flow.send(Batch {
        octets: &many,
        size,
    });
    let dropped = lost.0.lock().unwrap().drain(..).collect::<Vec<_>>();
    let [(Loss::QueueFull, dropped)] = dropped[..] else {
        panic!("{dropped:?}")
    };
    assert!((100..300).contains(&dropped), "{dropped}");
    let heard = flow.heard(many.len() - dropped * size).await;
    assert_eq!(
        heard[0].0[..4],
        u32::try_from(dropped).unwrap().to_be_bytes()
    );
    assert!(lost.0.lock().unwrap().is_empty());

    // The relay hears of those that come for nobody.
    let (_answer, _question, heard) = flow.at_agent;
    drop(heard);
    let (back, _back_opened) = _answer.flow(Arc::new(Nowhere));
    drop(flow._opened);
    back.send(Batch {
        octets: &[1; 30],
        size: 10,
    });
    let counted = async {
        loop {
            let lost: Vec<_> = lost.0.lock().unwrap().clone();
            assert!(lost.iter().all(|(why, _)| *why == Loss::NoFlow));
            if lost.iter().map(|(_, count)| count).sum::<usize>() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("in time");
    flow.flow.send(Batch::of_one(b"late"));
    assert_eq!(lost.0.lock().unwrap().last(), Some(&(Loss::NoFlow, 1)));
    drop(flow.send);
}

#[tokio::test]
async fn where_the_tunnel_has_too_much_those_give_way_that_have_most() {
    let lost = Arc::<Lost>::default();
    let pair = Ends::losing(Arc::clone(&lost)).connect().await;
    let mut quiet = flow(&pair).await;
    let mut loud = Vec::new();
    for _ in 0..5 {
        loud.push(flow(&pair).await);
    }
    // All of it before the driver has had a turn.
    let octets = vec![7; 600_000];
    for loud in &loud {
        loud.flow.send(Batch {
            octets: &octets,
            size: 1000,
        });
    }
    quiet.flow.send(Batch {
        octets: &octets[..2000],
        size: 100,
    });
    // The last of the loud has as much as the others.
    let before: usize = lost.0.lock().unwrap().iter().map(|(_, count)| count).sum();
    assert!((900..1200).contains(&before), "{before}");
    quiet.heard(2000).await;
    loud[4].heard(300_000).await;
    assert!(
        lost.0
            .lock()
            .unwrap()
            .iter()
            .all(|(why, _)| *why == Loss::QueueFull)
    );
}

#[tokio::test]
async fn many_small_datagrams_are_counted_with_what_it_takes_to_keep_them() {
    let lost = Arc::<Lost>::default();
    let pair = Ends::losing(Arc::clone(&lost)).connect().await;
    let flow = flow(&pair).await;
    // Of these there are half as many octets as may wait.
    let octets = vec![7; 256 * 1024];
    flow.flow.send(Batch {
        octets: &octets,
        size: 1,
    });
    let dropped: usize = lost.0.lock().unwrap().iter().map(|(_, count)| count).sum();
    assert!(dropped > 200_000, "{dropped}");
}

#[tokio::test]
async fn what_is_said_on_a_stream_has_its_turn_among_datagrams() {
    let pair = pair().await;
    let mut flow = flow(&pair).await;
    let (mut send, _recv) = pair.at_relay.open_bi().await.unwrap();
    send.write_all(b"first").await.unwrap();
    let (_answer, mut question) = pair.at_agent.accept_bi().await.unwrap();
    question.read_exact(&mut [0; 5]).await.unwrap();
    // As many as there may be, and each as long as the path takes, so that nothing else fits into its packet.
    until_wide(&pair, || pair.at_relay.datagram_room() >= 1400).await;
    let size = pair.at_relay.datagram_room();
    let octets = vec![7; 500 * 1024];
    flow.flow.send(Batch {
        octets: &octets,
        size,
    });
    send.write_all(b"then").await.unwrap();
    let heard = timeout(PATIENCE, question.read_exact(&mut [0; 4])).await;
    heard.expect("in time").unwrap();
    let mut before = 0;
    while let Ok((batch, _)) = flow.told.try_recv() {
        before += batch.len();
    }
    assert!(before <= super::flow::TURN * size, "{before}");
    flow.heard(octets.len() - before).await;
}

#[tokio::test]
async fn a_flow_begins_only_where_the_path_has_room_for_one() {
    let pair = pair().await;
    let mut flow = flow(&pair).await;
    until_wide(&pair, || flow.flow.has_room()).await;
    flow.flow.send(Batch::of_one(&[7; 1200]));
    assert_eq!(flow.heard(1200).await, [(vec![7; 1200], 1200)]);
}
