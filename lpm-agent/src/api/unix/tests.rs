use super::*;
use crate::config::Enabled;

fn socket(path: &Path) -> Socket {
    Socket {
        enabled: Enabled::Always(true),
        path: path.to_owned(),
        group: None,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o777
}

#[tokio::test]
async fn the_socket_and_its_directory_are_for_few() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/lpm.sock");
    let server = LocalServer::bind(&socket(&path)).expect("a socket");
    assert_eq!(mode(&path), MODE);
    assert_eq!(mode(&directory.path().join("run")), DIRECTORY);
    let taken = LocalServer::bind(&socket(&path)).expect_err("it is taken");
    assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
    drop(server);
    assert!(!path.exists(), "it goes with the server");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_at_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lpm.sock");
    drop(std_unix::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "a killed agent leaves it");
    let server = LocalServer::bind(&socket(&path)).expect("a socket");
    // Another agent's socket is not deleted.
    fs::remove_file(&path).expect("delete");
    let other = LocalServer::bind(&socket(&path)).expect("a socket");
    drop(server);
    assert!(path.exists());
    drop(other);
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lpm.sock");
    fs::write(&path, "somebody's").expect("write");
    let error = LocalServer::bind(&socket(&path)).expect_err("a file");
    assert!(matches!(error, SocketError::NoSocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("it stays"), "somebody's");
    fs::remove_file(&path).expect("delete");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let error = LocalServer::bind(&socket(&path)).expect_err("a directory for all");
    assert!(matches!(error, SocketError::Directory(_)), "{error}");
    let group = Socket {
        group: Some("no-such-group".to_owned()),
        ..socket(&path)
    };
    let error = LocalServer::bind(&group).expect_err("no group");
    assert!(matches!(error, SocketError::Group(_)), "{error}");
}

#[tokio::test]
async fn a_client_is_its_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lpm.sock");
    let server = LocalServer::bind(&socket(&path)).expect("a socket");
    let _client = std_unix::UnixStream::connect(&path).expect("connect");
    let (stream, _) = server.listener.accept().await.expect("a client");
    let (peer, evidence) = server.client(&stream).expect("credentials");
    let Peer::Unix { uid, gid, pid } = peer else {
        panic!("{peer:?}");
    };
    assert_eq!(
        (uid, gid),
        (getuid().as_raw(), nix::unistd::getgid().as_raw())
    );
    assert_eq!(pid, i32::try_from(std::process::id()).ok());
    assert!(!evidence.is_member);
    let groups = peer_groups(stream.as_fd()).expect("groups");
    let own: Vec<_> = nix::unistd::getgroups()
        .expect("groups")
        .into_iter()
        .map(Gid::as_raw)
        .collect();
    assert_eq!(groups, own);
}
