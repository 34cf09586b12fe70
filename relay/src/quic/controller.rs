//! Congestion control of a tunnel: CUBIC, and BBR where packets are lost though no queue has grown.
//!
//! CUBIC takes every loss for a full queue. On a long path that loses a packet now and then for no such reason its window
//! stays small for ever: at 50 ms and 0.5 % it moves 4 Mbit/s where BBR moves 270. The library's BBR in turn takes no loss
//! for one, so it is left again where the queue is full indeed.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{
    Bbr, BbrConfig, Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig,
};

use crate::congestion::FAR;

/// How long a path is looked at before BBR is left.
const PERIOD: Duration = Duration::from_secs(1);

/// Of this much loss, in octets for each one that arrived, it is taken for the sender's own doing: one in twenty.
const MOST_LOSS: u64 = 20;

/// Before BBR is tried again after it was left. Doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(640);

/// Octets that may be under way at least: CUBIC's first window (RFC 9002 section 7.2).
const LEAST_WINDOW: u64 = 12_000;

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(super) struct Adaptive;

impl ControllerFactory for Adaptive {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let config = Arc::new(CubicConfig::default());
        Box::new(AdaptiveController {
            delegate: Delegate::Cubic(Cubic::new(config, now, mtu)),
            path: Path::new(now),
            mtu,
        })
    }
}

/// Obeys one of the two, and judges which.
#[derive(Clone, Debug)]
pub(super) struct AdaptiveController {
    delegate: Delegate,
    path: Path,
    mtu: u16,
}

#[derive(Clone, Debug)]
enum Delegate {
    Cubic(Cubic),
    /// Large, and most paths never need it.
    Bbr(Box<Bbr>),
}

impl AdaptiveController {
    /// The name of the one that is obeyed.
    pub(super) fn name(&self) -> &'static str {
        match self.delegate {
            Delegate::Cubic(_) => "cubic",
            Delegate::Bbr(_) => "bbr",
        }
    }

    fn delegate(&self) -> &dyn Controller {
        match &self.delegate {
            Delegate::Cubic(cubic) => cubic,
            Delegate::Bbr(bbr) => &**bbr,
        }
    }

    fn delegate_mut(&mut self) -> &mut dyn Controller {
        match &mut self.delegate {
            Delegate::Cubic(cubic) => cubic,
            Delegate::Bbr(bbr) => &mut **bbr,
        }
    }
}

impl Controller for AdaptiveController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.delegate_mut().on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.path.arrived(bytes, rtt.get(), rtt.min());
        self.delegate_mut()
            .on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        if let Delegate::Bbr(_) = self.delegate
            && let Some(window) = self.path.is_overdriven(now)
        {
            let mut config = CubicConfig::default();
            config.initial_window(window.max(LEAST_WINDOW));
            self.delegate = Delegate::Cubic(Cubic::new(Arc::new(config), now, self.mtu));
        }
        self.delegate_mut()
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.path.lost(lost_bytes);
        if let Delegate::Cubic(cubic) = &self.delegate
            && lost_bytes > 0 // what routers mark was no chance
            && self.path.loses_by_chance(now)
        {
            let mut config = BbrConfig::default();
            config.initial_window(cubic.window());
            self.path.begin(now);
            self.delegate = Delegate::Bbr(Box::new(Bbr::new(Arc::new(config), self.mtu)));
            return;
        }
        self.delegate_mut()
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.delegate_mut().on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.delegate().window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.delegate().metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.delegate().initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a path has shown.
#[derive(Clone, Debug)]
struct Path {
    smoothed: Duration,
    /// The shortest round trip there was.
    shortest: Duration,
    /// Since when octets are counted.
    since: Instant,
    arrived: u64,
    lost: u64,
    /// BBR is not tried before.
    bbr_from: Instant,
    pause: Duration,
}

impl Path {
    fn new(now: Instant) -> Self {
        Self {
            smoothed: Duration::ZERO,
            shortest: Duration::ZERO,
            since: now,
            arrived: 0,
            lost: 0,
            bbr_from: now,
            pause: FIRST_PAUSE,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.arrived = 0;
        self.lost = 0;
    }

    fn arrived(&mut self, octets: u64, smoothed: Duration, shortest: Duration) {
        self.arrived += octets;
        self.smoothed = smoothed;
        self.shortest = shortest;
    }

    fn lost(&mut self, octets: u64) {
        self.lost += octets;
    }

    /// Packets take half as long again as they would if nothing were in their way.
    fn has_queue(&self) -> bool {
        self.smoothed > self.shortest + self.shortest / 2
    }

    /// Whether what was just lost has nothing to do with how much is sent.
    fn loses_by_chance(&self, now: Instant) -> bool {
        self.shortest >= FAR && !self.has_queue() && now >= self.bbr_from
    }

    /// Whether a period has shown that more is sent than the path takes; then, how much of it may be under way.
    fn is_overdriven(&mut self, now: Instant) -> Option<u64> {
        let length = now.saturating_duration_since(self.since);
        if length < PERIOD {
            return None;
        }
        let overdriven = self.lost > self.arrived / MOST_LOSS && self.has_queue();
        let window = overdriven.then(|| {
            let each_second = self.arrived as f64 / length.as_secs_f64();
            (each_second * self.shortest.as_secs_f64()) as u64
        });
        self.begin(now);
        if overdriven {
            self.bbr_from = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_micros(300);
    const RTT: Duration = Duration::from_millis(50);

    fn controller(now: Instant) -> AdaptiveController {
        *Arc::new(Adaptive)
            .build(now, 1200)
            .into_any()
            .downcast()
            .unwrap()
    }

    fn lose(controller: &mut AdaptiveController, now: Instant) {
        controller.on_congestion_event(now, now - RTT, false, 1200);
    }

    #[test]
    fn a_loss_on_a_long_path_without_a_queue_is_chance() {
        let now = Instant::now() + RTT;
        for (smoothed, shortest, name) in [
            (RTT, RTT, "bbr"),
            (RTT * 2, RTT, "cubic"),
            (NEAR, NEAR, "cubic"),
        ] {
            let mut controller = controller(now);
            controller.path.arrived(120_000, smoothed, shortest);
            lose(&mut controller, now);
            assert_eq!(controller.name(), name, "{smoothed:?} {shortest:?}");
        }
    }

    #[test]
    fn a_mark_of_a_router_is_no_chance() {
        let now = Instant::now() + RTT;
        let mut controller = controller(now);
        controller.path.arrived(120_000, RTT, RTT);
        controller.on_congestion_event(now, now - RTT, false, 0);
        assert_eq!(controller.name(), "cubic");
    }

    #[test]
    fn the_window_is_not_cut_by_a_loss_of_chance() {
        let now = Instant::now() + RTT;
        let mut controller = controller(now);
        let window = controller.window();
        controller.path.arrived(120_000, RTT, RTT);
        lose(&mut controller, now);
        assert_eq!(controller.window(), window);
    }

    #[test]
    fn bbr_is_left_where_it_fills_the_queue_and_tried_again_later() {
        let mut now = Instant::now() + RTT;
        let mut controller = controller(now);
        controller.path.arrived(120_000, RTT, RTT);
        lose(&mut controller, now);
        for pause in [FIRST_PAUSE, FIRST_PAUSE * 2] {
            assert_eq!(controller.name(), "bbr");
            now += PERIOD;
            controller.path.arrived(1_000_000, RTT * 2, RTT);
            controller.path.lost(100_000);
            controller.on_end_acks(now, 0, false, None);
            assert_eq!(controller.name(), "cubic");
            assert_eq!(
                controller.window(),
                50_000,
                "a megabyte each second, 50 ms of it"
            );
            controller.path.arrived(0, RTT, RTT);
            lose(&mut controller, now + pause / 2);
            assert_eq!(controller.name(), "cubic");
            now += pause;
            lose(&mut controller, now);
        }
    }

    #[test]
    fn bbr_stays_where_few_are_lost_or_no_queue_grows() {
        let mut now = Instant::now() + RTT;
        let mut controller = controller(now);
        controller.path.arrived(120_000, RTT, RTT);
        lose(&mut controller, now);
        for (smoothed, lost) in [(RTT * 2, 10_000), (RTT, 200_000)] {
            now += PERIOD;
            controller.path.arrived(1_000_000, smoothed, RTT);
            controller.path.lost(lost);
            controller.on_end_acks(now, 0, false, None);
            assert_eq!(controller.name(), "bbr");
        }
    }
}
