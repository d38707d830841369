//! Single objects, read by their paths.

use std::fmt;

use axum::http::Request;
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There is no such object.
    NotFound,
    /// It may not be read (any more).
    Denied(String),
    /// Anything else.
    Failed(String),
}

/// Whoever reads objects: the API server, or what stands for it in a test.
pub trait ObjectReader {
    /// Reads an object or a list by its path.
    fn read(&self, path: &str) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;
}

/// The API server, by a client.
pub(crate) struct Server(Client);

impl Server {
    /// Reads with the rights of this client.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }
}

impl ObjectReader for Server {
    async fn read(&self, path: &str) -> Result<serde_json::Value, NoAnswer> {
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(|error| NoAnswer::Failed(error.to_string()))?;
        self.0.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 404 => NoAnswer::NotFound,
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                NoAnswer::Denied(status.message.clone())
            }
            error => NoAnswer::Failed(error.to_string()),
        })
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A list as the API server writes it. Its own metadata is left out.
#[derive(Deserialize)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such object"),
            Self::Denied(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Reads an object or a list as this type.
pub(crate) async fn read<T: DeserializeOwned>(
    api: &impl ObjectReader,
    path: &str,
) -> Result<T, NoAnswer> {
    let value = api.read(path).await?;
    serde_json::from_value(value).map_err(|error| NoAnswer::Failed(error.to_string()))
}
