//! Finds the backend of a connection to a service: a workload behind the service.

use std::{io, net::IpAddr, sync::PoisonError};

use lpm_common::layout::NameId;

use super::NameIds;
use crate::{
    identity::{Member, names_file::Kind},
    kernel::maps::NameMaps,
};

impl NameIds {
    /// The id that stands for a backend of a service, for flows that know the service's address only: in
    /// the same namespace, with the backend's workload, node and zone, and the service by which it is
    /// talked to. `None`: backends are not told apart, or this one is not; the backend is not known, or is not
    /// of the service's namespace.
    ///
    /// # Errors
    /// The meaning of the id cannot be stored for the next agent. Then nobody may have it.
    pub fn id_behind(
        &self,
        tables: &dyn NameMaps,
        service: IpAddr,
        backend: IpAddr,
    ) -> io::Result<Option<NameId>> {
        let names = self.registry.names();
        let (Some(service), Some(backend)) = (names.lookup(service), names.lookup(backend)) else {
            return Ok(None);
        };
        let is_pair = service.kind == Kind::Service && backend.kind == Kind::Pod;
        let (Some(namespace), true) = (service.namespace.as_deref(), is_pair) else {
            return Ok(None);
        };
        if !self.levels.tell_backends() || backend.namespace.as_deref() != Some(namespace) {
            return Ok(None);
        }
        let place = self.place(backend, false);
        let Some(member) = self.levels.member(backend, false, place) else {
            return Ok(None);
        };
        let has_place = member.node.is_some() || member.zone.is_some();
        if member.workload.is_none() && !has_place {
            return Ok(None);
        }
        let member = Member {
            service: service.service.clone().filter(|_| self.levels.service),
            ..member
        };
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let id = ids.member(namespace, Some(&member), self.levels.top);
        drop(ids);
        self.remember(tables)?;
        // The service's own id says more than the namespace as a whole.
        Ok((id.member() != 0).then_some(id))
    }
}
