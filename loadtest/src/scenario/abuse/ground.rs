//! Where it is fought: a device and its server, which may have little of something, and whoever else an attack needs.

use std::net::SocketAddr;

use relay::agent::State;

use super::NAME;
use super::attack::{Attack, Needs, Target};
use crate::part::up::Scarce;
use crate::process::ProcessId;
use crate::scenario::ScenarioError;
use crate::scenario::bystander::Bystander;
use crate::world::{Carrier, Device, Ends, Place, Sibling};

/// Descriptors of a relay that has few: it leaves a quarter to what is no visitor.
const FEW_DESCRIPTORS: u64 = 256;

/// Memory that a relay may have beyond what it has while only the bystander is there, in octets; and the least that its configuration
/// allows.
const LITTLE_MEMORY: u64 = 16 << 20;
const LEAST_MEMORY: u64 = 64 << 20;

/// The names of another device that is attached, and of one whose key somebody has.
const NEIGHBOUR: &str = "neighbour";
const TRAITOR: &str = "traitor";

/// See the module.
pub(super) struct Ground {
    // Their agents end before the device and its server do.
    neighbour: Option<Sibling>,
    traitor: Option<Sibling>,
    pub(super) device: Device,
    /// How much memory the relay may have, where that is little.
    pub(super) memory: Option<u64>,
}

impl Ground {
    /// The device given, or one of our own.
    pub(super) async fn reach(place: &Place) -> Result<Self, ScenarioError> {
        let ground = Self::of(Device::reach(place, NAME).await?, None);
        match ground.front() {
            front if front.ip().is_loopback() => Ok(ground),
            elsewhere => Err(ScenarioError::NotHere(elsewhere)),
        }
    }

    /// One of our own at `ends`.
    pub(super) async fn at(ends: &Ends, carrier: Carrier) -> Result<Self, ScenarioError> {
        let device = Device::start(carrier, ends, Scarce::default()).await?;
        Ok(Self::of(device, None))
    }

    pub(super) async fn with_few_descriptors(carrier: Carrier) -> Result<Self, ScenarioError> {
        let scarce = Scarce {
            descriptors: Some(FEW_DESCRIPTORS),
            memory: None,
        };
        let device = Device::start(carrier, &Ends::together(), scarce).await?;
        Ok(Self::of(device, None))
    }

    pub(super) async fn with_little_memory(carrier: Carrier) -> Result<Self, ScenarioError> {
        let ends = Ends::together();
        let usual = Device::start(carrier, &ends, Scarce::default()).await?;
        let bystander = Bystander::start(&usual)?;
        bystander.is_served().await?;
        let resident = usual.watched.relay.map(ProcessId::resident).transpose()?;
        let memory = resident.unwrap_or_default() + LITTLE_MEMORY;
        let scarce = Scarce {
            descriptors: None,
            memory: Some(memory.max(LEAST_MEMORY)),
        };
        drop((bystander, usual));
        let device = Device::start(carrier, &ends, scarce).await?;
        Ok(Self::of(device, scarce.memory))
    }

    fn of(device: Device, memory: Option<u64>) -> Self {
        Self {
            neighbour: None,
            traitor: None,
            device,
            memory,
        }
    }

    /// Brings whoever the attack needs, unless they are here.
    pub(super) async fn prepare(&mut self, attack: Attack) -> Result<(), ScenarioError> {
        let (name, stays, who) = match attack.needs() {
            Needs::Neighbour => (NEIGHBOUR, true, &mut self.neighbour),
            Needs::Identity => (TRAITOR, false, &mut self.traitor),
            Needs::Nothing | Needs::FewDescriptors | Needs::LittleMemory | Needs::Strangers => {
                return Ok(());
            }
        };
        if who.is_none() {
            let came = self.device.sibling(name, stays).await?;
            *who = Some(came.ok_or(ScenarioError::NotOurs(attack.name()))?);
        }
        Ok(())
    }

    /// Where visitors and agents arrive.
    pub(super) fn front(&self) -> SocketAddr {
        self.device.door.entrance().front
    }

    /// The relay, or whoever is at `front` in its place.
    pub(super) fn target(&self, front: SocketAddr) -> Result<Target, ScenarioError> {
        let identity = match &self.traitor {
            Some(traitor) => Some(State::open(&traitor.state)?.identity()?.certificate()?),
            None => None,
        };
        Ok(Target {
            front,
            zone: self.device.zone.clone(),
            device: self.device.door.clone(),
            bulk: self.device.bulk.clone(),
            neighbour: self.neighbour.as_ref().map(|other| other.door.clone()),
            identity,
        })
    }
}
