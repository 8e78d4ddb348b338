//! Nodes that must not join, and directories that must not start.

use kontiki_tests::processes::{Cluster, Server};

use crate::{cuts, until};

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_fit_is_told_why() {
    let mut cluster = Cluster::start(3, cuts()).await;
    let client = cluster.client().await;
    until("all are registered", &cluster, &client, |map| map.nodes.iter().all(|info| info.store.is_some())).await;

    let mut other = Server::joining(cluster.folder(), 4, &cluster.addrs()).with("--cluster-name", "other");
    let (code, said) = other.refuses().await;
    assert!(code == Some(2) && said.contains("this is cluster `kontiki`") && said.contains("`other`"), "{code:?}: {said}");

    // An address that a living node has.
    let taken = cluster.nodes()[1].addr().to_owned();
    let mut twin = Server::joining(cluster.folder(), 5, &cluster.addrs()).with("--advertise", &taken);
    let (code, said) = twin.refuses().await;
    assert!(code == Some(2) && said.contains("n2 lives at") && said.contains("address of its own"), "{code:?}: {said}");
    let map = client.refresh_map().await.expect("a map");
    assert_eq!(map.nodes.len(), 3, "nobody was taken in");

    // A directory of another cluster: it would go on in that one, and nobody would be told.
    let elsewhere = cluster.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("made");
    let mut stray = Server::alone(&elsewhere);
    stray.start();
    stray.ready().await.unwrap_or_else(|why| panic!("{why}"));
    assert!(stray.stop().await.success());
    let mut moved = Server::joining(cluster.folder(), 6, &cluster.addrs());
    moved.set("--data", &stray.data().to_string_lossy());
    let (code, said) = moved.refuses().await;
    assert!(
        code == Some(5) && said.contains("is of the cluster") && said.contains("give an empty directory"),
        "{code:?}: {said}"
    );

    // An older copy of a directory: the node has been started again since it was made.
    let copy = cluster.folder().join("copy");
    assert!(cluster.node(3).stop().await.success());
    copy_all(cluster.node(3).data(), &copy);
    cluster.node(3).start();
    cluster.node(3).ready().await.unwrap_or_else(|why| panic!("{why}"));
    let starts = |map: &kontiki_types::PartitionMap| map.node(3.into()).map(|info| info.incarnation.starts);
    until("its second start is registered", &cluster, &client, |map| starts(map) == Some(2)).await;
    cluster.node(3).kill().await;
    cluster.node(3).start();
    cluster.node(3).ready().await.unwrap_or_else(|why| panic!("{why}"));
    until("its third start is registered", &cluster, &client, |map| starts(map) == Some(3)).await;
    cluster.node(3).kill().await;
    cluster.node(3).set("--data", &copy.to_string_lossy());
    cluster.node(3).start();
    cluster.node(3).says("is an older copy of itself", "empty directory").await;
    client.put("the/others", "go on").await.expect("two of three serve");
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
