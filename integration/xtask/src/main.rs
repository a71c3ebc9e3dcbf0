//! The one door to building, testing and running netd.

fn main() {}
