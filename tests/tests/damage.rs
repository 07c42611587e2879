//! Stored objects of every kind, damaged in every way, on a disk and in a bucket: the damage is
//! named, what is whole still comes back, and nothing wrong ever does.
//!
//! The damage matrix of the crate `repository` goes through each object and many bits; here the whole
//! program runs, on real stores.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::fs;

use repo_format::key::{ObjectKey, Prefix};
use tests::support::s3::bucket;
use tests::support::{
    Lab, MIB, Rng, assert_same_tree, assert_same_volume, change_image, change_tree, make_image,
    make_tree, run, seed, soak,
};

const CHUNK: u64 = 64 << 10;

#[derive(Debug, Clone, Copy)]
enum Damage {
    Removed,
    Truncated,
    Flipped,
}

/// A repository with listed and unlisted snapshots, and what these are of.
struct Scene {
    lab: Lab,
    rng: Rng,
    saved: Vec<(String, &'static str)>,
}

impl Scene {
    fn new(lab: Lab) -> Self {
        lab.ok(&["init", "--chunk-size", "64K"]);
        let mut rng = Rng::new(seed("damage"));
        make_image(&lab.path("disk"), rng.number(), 4 * MIB);
        make_tree(&lab.path("tree"), rng.number(), 30);
        let mut scene = Self { lab, rng, saved: Vec::new() };
        scene.back_up("disk-1", "tree-1");
        // One version lists what another was made of, so that older catalogs can be read instead.
        let twin = scene.lab.json(&["backup", "disk", "--name", "twin"])["snapshot"].clone();
        scene.lab.ok(&["prune"]);
        scene.lab.ok(&["forget", twin.as_str().unwrap()]);
        change_image(&scene.lab.path("disk"), &mut scene.rng, 6, CHUNK);
        change_tree(&scene.lab.path("tree"), &mut scene.rng);
        scene.back_up("disk-2", "tree-2");
        scene.lab.verify();
        scene
    }

    fn back_up(&mut self, disk: &'static str, tree: &'static str) {
        for (source, truth) in [("disk", disk), ("tree", tree)] {
            let ended = self.lab.json(&["backup", source, "--name", source]);
            self.saved.push((ended["snapshot"].as_str().unwrap().to_owned(), truth));
            let [from, to] = [source, truth].map(|name| self.lab.path(name));
            run("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
        }
    }

    /// Some objects of each kind; all of them in a soak.
    fn objects(&mut self) -> Vec<ObjectKey> {
        let store = self.lab.store();
        let mut chosen = vec![ObjectKey::Config];
        for prefix in Prefix::ALL {
            let mut keys = Vec::new();
            let mut visit = |listed: repository::store::Listed| {
                keys.push(listed.key);
                Ok(())
            };
            store.list(prefix, &mut visit).unwrap();
            while !soak() && keys.len() > 2 {
                let at = usize::try_from(self.rng.below(keys.len() as u64)).unwrap();
                keys.swap_remove(at);
            }
            chosen.extend(keys);
        }
        chosen
    }

    /// Damages one object, looks at what that comes to, and puts it right again.
    fn damage(&mut self, key: &ObjectKey, damage: Damage) {
        let store = self.lab.store();
        let sound = store.get(key, u64::MAX).unwrap();
        store.delete(key).unwrap();
        let mut bytes = sound.clone();
        match damage {
            Damage::Removed => {}
            Damage::Truncated => bytes.truncate(sound.len() / 2),
            Damage::Flipped => {
                let bit = self.rng.below(sound.len() as u64 * 8);
                bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            }
        }
        if !matches!(damage, Damage::Removed) {
            store.put_new(key, &bytes).unwrap();
        }
        self.look(key, damage);
        store.delete(key).unwrap();
        store.put_new(key, &sound).unwrap();
    }

    fn look(&self, key: &ObjectKey, damage: Damage) {
        let what = format!("{key} {damage:?}");
        let ended = self.lab.run(&["verify", "--read-data", "--json"]);
        assert!(matches!(ended.code, Some(1 | 4)), "{what} was not noticed: {ended}");
        assert!(!ended.stderr.contains("panicked"), "{what}: {ended}");
        let opened = ended.stdout.contains("\"checked\"");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let folder = key.prefix().map_or("config", |prefix| prefix.folder());
        let is_named = said.contains(&key.to_string()) || said.contains(folder);
        assert!(is_named || !opened, "{what} is not named: {ended}");
        for (id, truth) in &self.saved {
            let restored = self.lab.run(&["restore", id, "back"]);
            assert!(!restored.stderr.contains("panicked"), "{what}: {restored}");
            let is_blamed = !opened || said.contains(id.as_str()) || said.contains("unknown");
            assert!(restored.code == Some(0) || is_blamed, "{what}, {truth}: {restored}{ended}");
            let back = self.lab.path("back");
            if restored.code == Some(0) && truth.starts_with("disk") {
                assert_same_volume(&self.lab.path(truth), &back, CHUNK);
            } else if restored.code == Some(0) {
                assert_same_tree(&self.lab.path(truth), &back);
            }
            for left in [back, self.lab.path("back.salvor-restoring")] {
                drop(fs::remove_file(&left));
                drop(fs::remove_dir_all(&left));
            }
        }
    }
}

fn damage_everything(lab: Lab) {
    let mut scene = Scene::new(lab);
    for key in scene.objects() {
        for damage in [Damage::Removed, Damage::Truncated, Damage::Flipped] {
            scene.damage(&key, damage);
        }
    }
    scene.lab.verify();
}

#[test]
fn damage_on_a_disk_is_named_and_nothing_wrong_comes_back() {
    damage_everything(Lab::bare());
}

#[test]
fn damage_in_a_bucket_is_named_and_nothing_wrong_comes_back() {
    damage_everything(Lab::in_bucket(&bucket(), "damage"));
}

#[test]
fn the_next_backup_heals_what_was_lost_in_a_bucket_and_the_source_still_has() {
    let lab = Lab::in_bucket(&bucket(), "heal");
    lab.ok(&["init", "--chunk-size", "64K"]);
    make_image(&lab.path("disk"), 3, 8 * MIB);
    lab.ok(&["backup", "disk", "--name", "disk"]);
    let store = lab.store();
    // Those with data, and that with the manifest.
    for at in 0..2 {
        let mut packs = Vec::new();
        let mut visit = |listed: repository::store::Listed| {
            packs.push((listed.size_bytes, listed.key));
            Ok(())
        };
        store.list(Prefix::Packs, &mut visit).unwrap();
        packs.sort_unstable_by_key(|(size_bytes, _)| *size_bytes);
        let (_, lost) = packs[if at == 0 { 0 } else { packs.len() - 1 }];
        store.delete(&lost).unwrap();
        lab.run(&["verify"]).expect(4);
        lab.ok(&["backup", "disk", "--name", "disk"]);
        lab.run(&["verify", "--read-data"]).expect(0);
        lab.ok(&["restore", "disk@latest", "back"]);
        assert_same_volume(&lab.path("disk"), &lab.path("back"), CHUNK);
        fs::remove_file(lab.path("back")).unwrap();
    }
}
