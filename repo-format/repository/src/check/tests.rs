//! Every kind of object, damaged in every way, in a real repository.

mod fixture;
mod matrix;
mod races;
mod repairs;
