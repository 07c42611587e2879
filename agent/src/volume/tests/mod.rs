//! Both engines through one suite, on real files, loop devices and full file systems.

mod devices;
mod kit;
mod opening;
mod pool;
mod probing;
mod reading;
mod stopping;
mod writing;
