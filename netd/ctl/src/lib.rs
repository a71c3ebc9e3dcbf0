//! What of netdctl can be used without it: readers of what others wrote. The program is `main.rs`.

pub mod flannel;
