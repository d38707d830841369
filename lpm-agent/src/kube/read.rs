//! Reads single objects by their paths.

use std::fmt;

use axum::http::Request;
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};

/// Why the API server gave no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The object does not exist.
    NotFound,
    /// Reading the object is not allowed, or not any more. The text is the server's reason.
    Denied(String),
    /// Any other failure. The text is its reason.
    Failed(String),
}

/// A reader of objects: the API server, or test answers in its place.
pub trait ObjectReader {
    /// Reads an object or a list by its path on the API server.
    fn read(&self, path: &str) -> impl Future<Output = Result<serde_json::Value, NoAnswer>> + Send;
}

/// The API server, read by a client.
pub(crate) struct Server(Client);

impl Server {
    /// A reader with the rights of this client.
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

/// A list of objects, without the list's own metadata.
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
