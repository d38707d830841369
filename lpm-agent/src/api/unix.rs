//! The Unix socket at which this machine's users ask the agent.

use std::{
    fs, io,
    os::{
        fd::AsFd as _,
        unix::{
            fs::{
                DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown,
            },
            net as std_unix,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::{Gid, Group, getgroups, getuid, setgroups};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use super::{Admission, Door, Peer, auth::Evidence, listener::missed};
use crate::{config::Socket, kernel::peer_groups};

/// Mode of a directory that is made for the socket.
const DIRECTORY: u32 = 0o755;

/// Mode of the socket: its owner and its group may connect.
const MODE: u32 = 0o660;

/// Bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Why the socket could not be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent listens at the path.
    #[error(
        "another program listens at the socket {0}: stop it, or give another path in the key \
         socket.path"
    )]
    Taken(PathBuf),
    /// Something that is no socket is at the path.
    #[error("{0} is no socket: move it, or give another path in the key socket.path")]
    NoSocket(PathBuf),
    /// Others may write to the directory, and put a socket of theirs in the place of the agent's.
    #[error(
        "others than the agent's user may write to {0}: `chmod go-w {0}`, or give a path in \
         another directory in the key socket.path"
    )]
    Directory(PathBuf),
    /// There is no such group.
    #[error("there is no group {0}: give a group of this machine, or its number, in socket.group")]
    Group(String),
    /// The kernel refuses.
    #[error(
        "cannot make the socket {path}: {source}; give another path in the key socket.path, or set \
         socket.enabled to false"
    )]
    System {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The socket, bound, that does not serve yet. Its file goes with it.
#[derive(Debug)]
pub struct LocalServer {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
    group: Option<u32>,
}

impl LocalServer {
    /// Binds the socket. Call it in a runtime.
    pub fn bind(socket: &Socket) -> Result<Self, SocketError> {
        let group = socket.group.as_deref().map(group_of).transpose()?;
        let path = &socket.path;
        let system = |source| SocketError::System {
            path: path.clone(),
            source,
        };
        prepare(path, system)?;
        let listener = UnixListener::bind(path).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => SocketError::Taken(path.clone()),
            _ => system(source),
        })?;
        let file = fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
        // From here on the file goes with this value, also after an error.
        let server = Self {
            listener,
            path: path.clone(),
            file: file.ok(),
            group,
        };
        // Who connects before the mode is set is checked as everybody is: by the process's user.
        chown(path, None, group).map_err(system)?;
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(system)?;
        Ok(server)
    }

    /// Serves the connections that are admitted, and closes the others at once. It ends when it is
    /// dropped, and leaves the connections to the door.
    pub async fn serve(self, door: Arc<Door>, admission: Arc<Admission>) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    missed(&error, &door).await;
                    continue;
                }
            };
            // Without credentials the client is nobody.
            let Some((peer, evidence)) = self.client(&stream) else {
                continue;
            };
            if let Some(place) = admission.admit(&peer) {
                let door = Arc::clone(&door);
                tokio::spawn(async move { door.serve(stream, peer, evidence, place).await });
            }
        }
    }

    /// The process at the other end.
    fn client(&self, stream: &UnixStream) -> Option<(Peer, Evidence)> {
        let process = stream.peer_cred().ok()?;
        let (uid, gid, pid) = (process.uid(), process.gid(), process.pid());
        let is_member = self.group.is_some_and(|group| {
            gid == group || peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
        });
        let evidence = Evidence {
            certificate: None,
            is_member,
        };
        Some((Peer::Unix { uid, gid, pid }, evidence))
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // Another agent may have put its own there.
        let now = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if now.ok() == self.file {
            // A file that stays is in nobody's way: the next agent finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory of the socket, checks it, and removes a socket at which nobody listens.
fn prepare(
    path: &Path,
    system: impl Fn(io::Error) -> SocketError + Copy,
) -> Result<(), SocketError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    (fs::DirBuilder::new().recursive(true).mode(DIRECTORY))
        .create(directory)
        .map_err(system)?;
    let found = fs::metadata(directory).map_err(system)?;
    let is_ours = [0, getuid().as_raw()].contains(&found.uid());
    if !is_ours || found.mode() & OTHERS_WRITE != 0 {
        return Err(SocketError::Directory(directory.to_owned()));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(error)),
        Ok(file) if !file.file_type().is_socket() => Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) if is_deserted(path) => fs::remove_file(path).map_err(system),
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
    }
}

/// True if nobody listens at the socket any more.
fn is_deserted(path: &Path) -> bool {
    let tried = std_unix::UnixStream::connect(path);
    tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Does for the socket what needs rights that the agent gives up at its start: makes its directory,
/// and lets this process into the group, so that it may give the socket to it. What fails here
/// fails again, with a reason, when the socket is made.
pub fn prepare_socket(socket: &Socket) {
    if let Some(directory) = socket.path.parent() {
        let _ = (fs::DirBuilder::new().recursive(true).mode(DIRECTORY)).create(directory);
    }
    let group = socket.group.as_deref().map(group_of);
    if let (Some(Ok(group)), Ok(mut groups)) = (group, getgroups()) {
        groups.push(Gid::from_raw(group));
        let _ = setgroups(&groups);
    }
}

/// The number of a group that is given by name or by number.
fn group_of(group: &str) -> Result<u32, SocketError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let found = Group::from_name(group).ok().flatten();
    let number = found.map(|group| Gid::as_raw(group.gid));
    number.ok_or_else(|| SocketError::Group(group.to_owned()))
}

#[cfg(test)]
mod tests;
