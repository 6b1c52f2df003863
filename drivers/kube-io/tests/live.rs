//! A directory under change: what is told, and when nothing is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_kube_io::{AddressFile, Batch, DirectoryError, DirectorySource, Given, GivenAddresses};
use headwater_model::cluster::{Change, Object};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

/// Long enough for any machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  a: \"{value}\"\n")
}

fn show(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Set(Object::ConfigMap(map)) => format!("{}={}", map.metadata.name, map.data["a"]),
            Change::Set(object) => object.key().to_string(),
            Change::Removed(key) => format!("-{}", key.id.name),
        })
        .collect()
}

fn told(batch: &Batch) -> Vec<String> {
    batch.findings.iter().map(ToString::to_string).collect()
}

async fn start(path: &Path) -> (Vec<String>, DirectorySource) {
    let (batch, source) = DirectorySource::start(path).await.expect("a readable directory");
    assert_eq!(told(&batch), Vec::<String>::new());
    (show(&batch.changes), source)
}

async fn next(source: &mut DirectorySource) -> Batch {
    tokio::time::timeout(DEADLINE, source.next()).await.expect("a batch within the deadline")
}

/// The changes up to the one that is shown as `last`; a step of the file system may come in more than one batch.
async fn changes_until(source: &mut DirectorySource, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    while !all.iter().any(|change| change == last) {
        all.extend(show(&next(source).await.changes));
    }
    all
}

fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).expect("a writable directory");
    fs::rename(&temporary, path).expect("a writable directory");
}

#[tokio::test]
async fn edits_by_rename_by_backup_and_in_place_are_each_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, config_map("a", "0")).unwrap();
    let (first, mut source) = start(dir.path()).await;
    assert_eq!(first, ["a=0"]);

    replace(&file, &config_map("a", "1"));
    assert_eq!(show(&next(&mut source).await.changes), ["a=1"]);

    // vim with 'backupcopy=no': a probe file, the old file moved away, the new one written, the backup removed
    fs::write(dir.path().join("4913"), "").unwrap();
    fs::remove_file(dir.path().join("4913")).unwrap();
    let new = config_map("a", "2");
    fs::rename(&file, dir.path().join("a.yaml~")).unwrap();
    fs::write(&file, new).unwrap();
    fs::remove_file(dir.path().join("a.yaml~")).unwrap();
    let changes = changes_until(&mut source, "a=2").await;
    assert!(changes == ["a=2"] || changes == ["-a", "a=2"], "{changes:?}");

    fs::write(&file, config_map("a", "3")).unwrap();
    let changes = changes_until(&mut source, "a=3").await;
    assert!(changes == ["a=3"] || changes == ["-a", "a=3"], "{changes:?}");
}

#[tokio::test]
async fn a_swap_of_the_data_link_changes_all_files_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let fill = |generation: &str, value: &str| {
        fs::create_dir(root.join(generation)).unwrap();
        for name in ["a", "b"] {
            fs::write(root.join(generation).join(format!("{name}.yaml")), config_map(name, value)).unwrap();
        }
    };
    fill("..1", "1");
    symlink("..1", root.join("..data")).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(name), root.join(name)).unwrap();
    }
    let (first, mut source) = start(root).await;
    assert_eq!(first, ["a=1", "b=1"]);
    for (old, new, value) in [("..1", "..2", "2"), ("..2", "..3", "3")] {
        fill(new, value);
        symlink(new, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join(old)).unwrap();
        assert_eq!(show(&next(&mut source).await.changes), [format!("a={value}"), format!("b={value}")]);
    }
}

#[tokio::test]
async fn a_half_written_file_keeps_its_objects_until_it_is_whole_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, config_map("a", "1")).unwrap();
    let (_, mut source) = start(dir.path()).await;

    replace(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, lab");
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), Vec::<String>::new());
    assert_eq!(
        told(&batch),
        ["a.yaml:3: not YAML: while parsing a flow mapping, did not find expected ',' or '}'; \
             the objects read from this file before stay"]
    );

    replace(&file, &config_map("a", "2"));
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["a=2".to_owned()], Vec::new()));

    replace(&file, "{");
    assert_eq!(next(&mut source).await.findings.len(), 1);
    fs::remove_file(&file).unwrap();
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["-a".to_owned()], Vec::new()));
}

#[tokio::test]
async fn a_refused_edit_keeps_the_last_good_version_of_that_object_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let both = |a: &str, b: &str| format!("{a}---\n{b}");
    fs::write(&file, both(&config_map("a", "1"), &config_map("b", "1"))).unwrap();
    let (_, mut source) = start(dir.path()).await;

    // an unknown field in one, a real edit in the other
    let broken = config_map("a", "2") + "dta: {}\n";
    replace(&file, &both(&broken, &config_map("b", "2")));
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), ["b=2"]);
    let said = "a.yaml:7: ConfigMap default/a: dta: unknown field; the version read before stays \
                (mend: did you mean \"data\"?)";
    assert_eq!(told(&batch), [said]);

    // the fault stands while other things change
    replace(&file, &both(&broken, &config_map("b", "3")));
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["b=3".to_owned()], vec![said.to_owned()]));

    // a name that cannot be one hides which object is meant: none is dropped
    replace(&file, &both(&config_map("A", "2"), &config_map("b", "3")));
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), Vec::<String>::new());
    assert_eq!(batch.findings[0].reason, "InvalidName");

    // mended under another name: now the old one goes
    replace(&file, &both(&config_map("c", "2"), &config_map("b", "3")));
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["-a".to_owned(), "c=2".to_owned()], Vec::new()));
}

#[tokio::test]
async fn the_second_manifest_of_an_object_counts_once_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&b, config_map("x", "b")).unwrap();
    let (_, mut source) = start(dir.path()).await;

    replace(&a, &config_map("x", "a"));
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), ["x=a"]);
    assert_eq!(
        told(&batch),
        ["b.yaml:1: ConfigMap default/x: this object stands in a.yaml:1 too, and that one counts \
          (mend: remove or rename one of the two)"]
    );

    // the holder keeps its place through a refused edit
    replace(&a, &(config_map("x", "A") + "dta: {}\n"));
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), Vec::<String>::new());
    assert_eq!(batch.findings.iter().map(|f| f.reason).collect::<Vec<_>>(), ["UnknownField", "DuplicateObject"]);

    fs::remove_file(&a).unwrap();
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["x=b".to_owned()], Vec::new()));
}

#[tokio::test]
async fn an_object_that_moves_to_another_file_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, format!("# note\n{}", config_map("x", "1"))).unwrap();
    let (_, mut source) = start(dir.path()).await;
    let key = ObjectKey::new(Kind::ConfigMap, "default", "x");
    assert_eq!(source.locate(&key, "data.a").unwrap().to_string(), "a.yaml:7");

    fs::rename(&a, &b).unwrap();
    replace(&a, &config_map("z", "1"));
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["z=1".to_owned()], Vec::new()));
    assert_eq!(source.locate(&key, "data.a").unwrap().to_string(), "b.yaml:7");
}

#[tokio::test]
async fn what_is_kept_for_a_nameless_manifest_gives_way_to_the_same_object_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, config_map("x", "1")).unwrap();
    let (_, mut source) = start(dir.path()).await;

    replace(&a, "apiVersion: v1\nkind: ConfigMap\n");
    let batch = next(&mut source).await;
    let said = ["a.yaml:1: metadata: ConfigMap without a name: required field is missing"];
    assert_eq!((show(&batch.changes), told(&batch)), (Vec::new(), said.map(str::to_owned).to_vec()));

    replace(&b, &config_map("x", "2"));
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (vec!["x=2".to_owned()], said.map(str::to_owned).to_vec()));

    fs::remove_file(&a).unwrap();
    let batch = next(&mut source).await;
    assert_eq!((show(&batch.changes), told(&batch)), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn directories_that_appear_are_watched_and_those_that_vanish_take_their_objects() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut source) = start(dir.path()).await;
    for round in ["1", "2"] {
        let deep = dir.path().join("d/e");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("a.yaml"), config_map("a", round)).unwrap();
        assert_eq!(changes_until(&mut source, &format!("a={round}")).await.last().unwrap(), &format!("a={round}"));
        replace(&deep.join("a.yaml"), &config_map("a", "x"));
        assert_eq!(changes_until(&mut source, "a=x").await, ["a=x"]);
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        assert_eq!(changes_until(&mut source, "-a").await, ["-a"]);
    }
}

#[tokio::test]
async fn a_file_behind_a_link_out_of_the_directory_is_watched() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = outside.path().join("real.yaml");
    fs::write(&file, config_map("a", "1")).unwrap();
    symlink(&file, dir.path().join("a.yaml")).unwrap();
    let (_, mut source) = start(dir.path()).await;
    replace(&file, &config_map("a", "2"));
    assert_eq!(show(&next(&mut source).await.changes), ["a=2"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_any_more_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("manifests");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), config_map("a", "1")).unwrap();
    let (_, mut source) = start(&root).await;

    fs::rename(&root, dir.path().join("away")).unwrap();
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), Vec::<String>::new());
    assert_eq!(
        told(&batch),
        ["the directory cannot be read (no such file or directory); what was read from it before stays"]
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_keeps_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, config_map("a", "1")).unwrap();
    let (_, mut source) = start(dir.path()).await;
    // root may read anything, so the file is made unreadable by its content as well
    let unreadable = dir.path().join("a.tmp");
    fs::write(&unreadable, b"\xff").unwrap();
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
    fs::rename(&unreadable, &file).unwrap();
    let batch = next(&mut source).await;
    assert_eq!(show(&batch.changes), Vec::<String>::new());
    assert!(told(&batch)[0].ends_with("; the objects read from this file before stay"), "{:?}", told(&batch));
}

#[tokio::test]
async fn a_missing_directory_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    match DirectorySource::start(dir.path().join("none")).await {
        Err(DirectoryError::Unreadable { path, .. }) => assert!(path.ends_with("none")),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a source from nothing"),
    }
}

#[tokio::test]
async fn nothing_is_told_of_writes_that_change_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, config_map("a", "1")).unwrap();
    let (_, mut source) = start(dir.path()).await;
    replace(&file, &format!("# a comment\n{}", config_map("a", "1")));
    fs::write(dir.path().join("README.md"), "x").unwrap();
    replace(&dir.path().join("b.yaml"), &config_map("b", "1"));
    assert_eq!(changes_until(&mut source, "b=1").await, ["b=1"]);
}

/// Time stands still but for sleeps, so the only thing that can bring news is the rescan.
#[tokio::test(start_paused = true)]
async fn what_no_event_told_is_found_by_the_rescan() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut source) = start(dir.path()).await;
    let before = tokio::time::Instant::now();
    let mut waiting = Box::pin(source.next());
    tokio::select! {
        biased;
        batch = &mut waiting => panic!("{batch:?}"),
        () = tokio::time::sleep(Duration::from_secs(95)) => {}
    }
    assert_eq!(before.elapsed(), Duration::from_secs(95));
    drop(waiting);
    fs::write(dir.path().join("a.yaml"), config_map("a", "1")).unwrap();
    assert_eq!(show(&source.next().await.changes), ["a=1"]);
}

#[tokio::test]
async fn a_dropped_wait_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut source) = start(dir.path()).await;
    let mut changes = Vec::new();
    let mut n = 0;
    while n < 50 || !changes.iter().any(|change| change == "a=49") {
        if n < 50 {
            replace(&dir.path().join("a.yaml"), &config_map("a", &n.to_string()));
            n += 1;
        }
        // dropped at a different point of its work each time
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(n % 40), source.next()).await {
            changes.extend(show(&batch.changes));
        }
    }
    assert!(changes.len() <= 50, "{changes:?}");
}

#[tokio::test]
async fn one_edit_among_five_thousand_files_is_one_change() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..5000 {
        fs::write(dir.path().join(format!("{n:04}.yaml")), config_map(&format!("c{n}"), "1")).unwrap();
    }
    let begin = Instant::now();
    let (first, mut source) = start(dir.path()).await;
    println!("5,000 files watched after {:?}", begin.elapsed());
    assert_eq!(first.len(), 5000);
    for (value, how) in [("2", "in place"), ("3", "by rename")] {
        let path = dir.path().join("2500.yaml");
        let begin = Instant::now();
        if how == "in place" {
            // same length, so that it is one write
            fs::write(&path, config_map("c2500", value)).unwrap();
        } else {
            replace(&path, &config_map("c2500", value));
        }
        assert_eq!(
            changes_until(&mut source, &format!("c2500={value}")).await.last().unwrap(),
            &format!("c2500={value}")
        );
        println!("one edit {how} told after {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn what_a_service_is_given_stands_in_its_status_and_goes_with_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer}\n";
    fs::write(path.join("web.yaml"), service).expect("a writable directory");
    let (first, mut source) = start(path).await;
    assert_eq!(first, ["Service shop/web"]);
    let addresses = |batch: &Batch| -> Vec<String> {
        let [Change::Set(Object::Service(service))] = &batch.changes[..] else { panic!("{:?}", batch.changes) };
        let ingress = service.status.load_balancer.ingress.iter().filter_map(|entry| entry.ip.clone());
        ingress.chain(service.metadata.annotations.values().cloned()).collect()
    };
    let file = AddressFile::take(path).expect("a writable directory").expect("nobody else has it");
    let mut given = GivenAddresses::default();
    let id = NamespacedName::new("shop", "web");
    let one = Given { addresses: vec!["192.0.2.1".parse().expect("an address")], pool: Some("first".into()) };
    given.set(id.clone(), one);
    file.write(&given).expect("a writable directory");
    assert_eq!(addresses(&next(&mut source).await), ["192.0.2.1", "first"]);
    // The manifest is edited, and refused: what was given stays with the version before, and changes with the file.
    replace(&path.join("web.yaml"), &service.replace("LoadBalancer}", "LoadBalancer, typo: 1}"));
    assert_eq!(next(&mut source).await.changes, []);
    given.set(id, Given::default());
    file.write(&given).expect("a writable directory");
    assert_eq!(addresses(&next(&mut source).await), Vec::<String>::new());
    // Broken, it changes nothing; gone, it gives nothing.
    replace(&path.join(".headwater/addresses.json"), "{");
    let broken = next(&mut source).await;
    assert_eq!(broken.changes, []);
    assert!(told(&broken).iter().any(|text| text.contains(".headwater/addresses.json:1")), "{:?}", told(&broken));
}
