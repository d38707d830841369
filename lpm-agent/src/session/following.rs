//! Takes changes of interfaces into the model, and turns them into notices for people.

use lpm_common::layout::Vantage;

use super::Notice;
use crate::{
    kernel::{
        blind::Reason,
        hotplug::{AttachedInterface, Event},
    },
    passive::{
        Model,
        model::{BlindLink, Link},
    },
};

/// Takes one interface's change into the model. Returns the notice to show, if there is one.
pub(super) fn follow(model: &Model, event: Event) -> Option<Notice> {
    match event {
        Event::Attached(attached) => {
            model.link_attached(attached.interface.index, link(&attached));
            model.set_blind(attached.interface.index, None);
            Some(Notice::Attached(attached))
        }
        Event::Renamed { interface, .. } => {
            model.link_attached(interface.interface.index, link(&interface));
            None
        }
        Event::Detached { interface, gone } => Some(detached(model, interface, gone)),
        Event::Adopted { interfaces } => Some(Notice::Adopted { interfaces }),
        Event::Abandoned { index } => {
            if let Err(error) = model.link_detached(index) {
                tracing::error!(index, %error, "the flows of a deleted interface could not be removed: they stay in the table until they are evicted");
            }
            None
        }
        Event::OneSided {
            interface,
            one_sided,
        } => {
            let before = model.set_one_sided(interface.interface.index, Some(one_sided));
            // An interface that carries both directions is news only if it carried one before.
            let notice = Notice::OneSided {
                interface: interface.interface.name,
                vantage: interface.vantage,
                one_sided,
            };
            (one_sided || before == Some(true)).then_some(notice)
        }
        Event::LeftoversRemoved { interface, filters } => {
            Some(Notice::LeftoversRemoved { interface, filters })
        }
        Event::Described => {
            model.ids().rename(model.tables());
            None
        }
        Event::Resynced => {
            tracing::warn!(
                "the kernel dropped messages about interfaces; the agent has listed the interfaces \
                 again"
            );
            None
        }
        Event::Failed { .. }
        | Event::GivenUp { .. }
        | Event::Overtaken { .. }
        | Event::Blind { .. } => not_measured(model, event),
    }
}

/// Takes the end of an interface's hooks into the model. `gone`: the interface itself has ended.
fn detached(model: &Model, interface: AttachedInterface, gone: bool) -> Notice {
    let (index, name) = (interface.interface.index, interface.interface.name);
    if let Err(error) = model.link_detached(index) {
        tracing::error!(interface = name, %error, "the flows of this interface could not be removed: they stay in the table until they are evicted");
    }
    model.set_blind(index, None);
    if gone {
        model.set_one_sided(index, None);
    }
    Notice::Detached {
        interface: name,
        gone,
    }
}

/// Handles the events that stop an interface from being measured, or that end such a state.
fn not_measured(model: &Model, event: Event) -> Option<Notice> {
    match event {
        Event::Failed {
            interface,
            vantage,
            error,
            retry,
        } => {
            // Without a retry there is nothing on this machine that could be mended.
            if retry {
                let blind = blind_link(&interface.name, vantage, Reason::Refused);
                model.set_blind(interface.index, Some(blind));
            }
            Some(Notice::Failed { error, retry })
        }
        Event::GivenUp { index } => {
            model.set_blind(index, None);
            None
        }
        Event::Overtaken {
            interface,
            direction,
            others,
        } => Some(Notice::Overtaken {
            interface,
            direction,
            others,
        }),
        Event::Blind { interface, blind } => {
            let (name, vantage) = (interface.interface.name, interface.vantage);
            let shown = blind.as_ref().map(|b| blind_link(&name, vantage, b.reason));
            model.set_blind(interface.interface.index, shown);
            Some(Notice::Blind {
                interface: name,
                blind,
            })
        }
        _ => None,
    }
}

fn blind_link(name: &str, vantage: Vantage, reason: Reason) -> BlindLink {
    BlindLink {
        name: name.to_owned(),
        vantage,
        reason,
    }
}

fn link(attached: &AttachedInterface) -> Link {
    Link {
        name: attached.interface.name.clone(),
        vantage: attached.vantage,
        mode: attached.mode.as_str(),
    }
}
