//! Random histories of a repository against the model.

use super::*;

const CHUNKS: u64 = 120;

struct History {
    dice: Dice,
    world: World,
    packs: Vec<Pack>,
    view: IndexView,
    /// To go back to.
    past: Vec<IndexView>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            world: World::default(),
            packs: Vec::new(),
            view: IndexView::default(),
            past: Vec::new(),
        }
    }

    fn fresh_packs(&mut self) -> Vec<Pack> {
        let count = 1 + self.dice.below(4);
        (0..count)
            .map(|_| {
                let mut chunks: Vec<u64> = (0..CHUNKS).collect();
                let len = 1 + self.dice.below(30);
                for at in 0..len {
                    let other = at + self.dice.below(chunks.len() - at);
                    chunks.swap(at, other);
                }
                let number = self.packs.len().try_into().unwrap();
                self.packs.push(Pack::new(number, &chunks[..len]));
                self.packs.last().unwrap().clone()
            })
            .collect()
    }

    fn random_pack(&mut self) -> Option<PackName> {
        let count = self.packs.len();
        (count > 0).then(|| self.packs[self.dice.below(count)].name())
    }

    /// Puts one segment in the place of some, without the packs that are dead.
    fn merge(&mut self) {
        let at = self.dice.below(self.view.segments.len() + 1);
        let merged = self.view.segments.split_off(at);
        let mut packs: BTreeMap<PackName, Pack> = BTreeMap::new();
        for pack in merged.iter().flat_map(|listed| &self.world.segment(listed).packs) {
            if !self.view.dead.contains(&pack.name()) {
                packs.insert(pack.name(), pack.clone());
            }
        }
        let packs: Vec<Pack> = packs.into_values().collect();
        let listed = self.world.add(&packs);
        self.view.segments.push(listed);
    }

    fn step(&mut self) {
        match self.dice.below(10) {
            0..4 => {
                let packs = self.fresh_packs();
                let listed = self.world.add(&packs);
                self.view.segments.push(listed);
            }
            4 => self.merge(),
            5..8 => {
                let pack = self.random_pack();
                let view = &mut self.view;
                let lists = [&mut view.condemned, &mut view.dead, &mut view.bad];
                lists.into_iter().nth(self.dice.below(3)).unwrap().extend(pack);
            }
            8 => {
                self.view.condemned.clear();
                let half = self.view.dead.len() / 2;
                self.view.dead.drain(..half);
            }
            _ => {
                self.past.push(self.view.clone());
                let at = self.dice.below(self.past.len());
                self.view = self.past[at].clone();
            }
        }
    }
}

#[test]
fn the_cache_answers_as_the_model_does_whatever_happens() {
    for seed in 0..12 {
        let mut history = History::new(seed);
        let dir = tempfile::tempdir().unwrap();
        let tuning = Tuning { garbage_entries_min: 40 * (seed % 3), ..SMALL };
        let mut index = open_tuned(dir.path(), tuning);
        for step in 0..60 {
            let when = format!("seed {seed}, step {step}");
            history.step();
            let newest = history.view.segments.last().copied();
            if let Some(own) = newest.filter(|_| history.dice.below(4) == 0) {
                let segment = history.world.segment(&own);
                let rows: Vec<PackRow> = segment.packs.iter().map(|pack| pack.row).collect();
                index.add_segment(&own, &rows, &segment.entries).unwrap();
            }
            if history.dice.below(6) == 0 {
                drop(index);
                index = open_tuned(dir.path(), tuning);
            }
            if history.dice.below(3) > 0 {
                let report = sync(&index, &history.view, &history.world);
                assert!(report.unreadable.is_empty(), "{when}: {:?}", report.unreadable);
                check(&index, &history.world, &history.view, 0..CHUNKS, &when).unwrap();
            }
        }
        assert_eq!(index.take_notices(), [], "seed {seed}");
    }
}
