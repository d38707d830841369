//! Traffic worth looking at, for demonstrations.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    Background, ManyConfig, ManyReport, PORT, RequestConfig, RequestReport, Server, many, requests,
};
use crate::testbed::{Error, Netns, Overlay};

/// Servers and clients at a moderate pace, until dropped.
#[derive(Debug)]
pub struct Demo {
    // Clients first: they end before their servers do.
    clients: Vec<Background<RequestReport>>,
    crowds: Vec<Background<ManyReport>>,
    servers: Vec<Server>,
}

impl Demo {
    /// Requests from each pod of `a` to its counterpart of `b`, over IPv4 and
    /// IPv6, between the first two pods of `a`, and 20 slow connections from
    /// the second pod of `a` to the first of `b`.
    pub fn on_overlay(overlay: &Overlay) -> Result<Self, Error> {
        let mut demo = Self {
            clients: Vec::new(),
            crowds: Vec::new(),
            servers: Vec::new(),
        };
        for pod in &overlay.pods {
            demo.servers.push(Server::start(&pod.netns, PORT)?);
        }
        let (a, b) = overlay.pods.split_at(overlay.pods.len() / 2);
        for (client, server) in a.iter().zip(b) {
            demo.call(&client.netns, server.v4.into())?;
            demo.call(&client.netns, server.v6.into())?;
        }
        if let ([first, second, ..], [far, ..]) = (a, b) {
            demo.call(&first.netns, second.v4.into())?;
            let config = ManyConfig::new(SocketAddr::new(far.v4.into(), PORT), 20, 100.0);
            let crowd = Background::start(&second.netns, move |control| many(&config, control))?;
            demo.crowds.push(crowd);
        }
        Ok(demo)
    }

    /// Requests from `client` to each of the server's addresses.
    pub fn between(client: &Netns, server: &Netns, addresses: &[IpAddr]) -> Result<Self, Error> {
        let servers = vec![Server::start(server, PORT)?];
        let mut demo = Self {
            clients: Vec::new(),
            crowds: Vec::new(),
            servers,
        };
        for address in addresses {
            demo.call(client, *address)?;
        }
        Ok(demo)
    }

    /// 20 requests a second, unevenly, with answers of three segments.
    fn call(&mut self, client: &Netns, server: IpAddr) -> Result<(), Error> {
        let config = RequestConfig {
            period: Duration::from_millis(50),
            jitter: 0.3,
            response: 4000,
            ..RequestConfig::new(SocketAddr::new(server, PORT))
        };
        let call = Background::start(client, move |control| requests(&config, control))?;
        self.clients.push(call);
        Ok(())
    }
}
