//! One contract, two kernels: every law is put to the fake kernel and to Linux, in namespaces of its own. Needs root, and
//! fails without. What only `nft` or a packet can show is in `ruleset.rs` and `linux.rs`; the plan by itself in `plan.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod bench;
mod laws {
    pub(crate) mod fabric;
    pub(crate) mod links;
    pub(crate) mod rules;
    pub(crate) mod vlans;
    pub(crate) mod ways;
    pub(crate) mod whole;
}
mod objects;

/// Each law as a test of either kernel.
macro_rules! laws {
    ($($subject:ident: $($law:ident)*;)*) => {
        mod fake {
            $($(#[test] fn $law() { crate::laws::$subject::$law(&crate::bench::Fake::default()); })*)*
        }
        mod linux {
            $($(#[test] fn $law() { crate::bench::Linux::on_a_node(|bench| crate::laws::$subject::$law(bench)); })*)*
        }
    };
}

laws! {
    fabric:
        what_leads_by_a_tunnel_needs_it_and_goes_with_it
        a_tunnel_may_be_made_again_and_changes_in_place
        a_route_changes_its_hop_in_one_step
        a_route_says_what_size_passes_and_changes_it_in_one_step
        what_a_hop_or_a_tunnel_cannot_be_is_refused
        ranges_inside_lie_apart;
    links:
        a_veth_needs_its_bridge
        a_veth_needs_its_sandbox
        a_taken_name_is_refused
        the_sandbox_end_comes_with_the_host_end_and_goes_with_it
        an_interface_needs_its_veth_and_its_sandbox
        an_interface_is_made_once_and_then_only_added_to
        both_ends_go_with_the_sandbox
        a_bridge_that_is_there_is_adopted_with_all_it_has
        a_link_of_another_kind_is_no_bridge
        ports_outlive_their_bridge
        a_port_is_shut_and_opened_and_changes_its_flags
        a_link_that_is_down_is_made_whole_and_stays_down_until_it_is_raised
        a_bridge_takes_1023_ports
        a_bridges_mtu_is_that_of_its_ports
        facts_are_told_of_what_stands
        what_an_interface_lacks_is_told
        a_bridge_is_filtered_in_place_and_its_filter_goes_with_it
        every_sandbox_has_lo;
    rules:
        elements_and_guards_need_the_ruleset
        an_element_may_be_made_again_but_not_with_another_target
        a_target_is_replaced_in_one_step
        steps_of_the_ruleset_that_stand_together_all_take_hold_or_none
        made_again_the_ruleset_keeps_its_elements
        a_replaced_ruleset_drops_elements_and_guards
        a_deleted_ruleset_takes_its_elements_along
        a_policy_becomes_another_in_one_step
        the_parts_of_a_profile_may_lie_otherwise
        what_policies_have_is_seen_apart
        a_class_may_be_made_again_but_not_another
        all_pairs_and_spans_are_counted
        forwarding_is_never_switched_off_and_a_guard_stays;
    vlans:
        a_bridge_keeps_vlans_apart_or_the_kernel_says_that_it_cannot
        a_port_is_in_its_vlans_and_changes_them_in_place
        a_gateway_link_needs_its_bridge_and_goes_alone
        a_gateway_link_of_ours_is_adopted_with_its_addresses_and_no_other
        a_gateway_link_outlives_its_bridge_and_is_put_back
        a_death_at_any_step_of_a_plan_with_vlans_is_made_good;
    ways:
        gateways_and_ways_need_their_veth_and_go_with_it
        gateways_and_ways_go_with_the_sandbox
        a_gateway_may_stand_on_many_links_and_be_made_again
        to_an_address_there_is_one_way
        facts_are_told_of_a_routed_veth;
    whole:
        what_was_planned_is_observed_and_a_second_plan_is_empty
        a_death_at_any_step_then_a_new_plan_reaches_the_same_state
        a_change_and_the_way_back_are_observed
        steps_before_the_one_that_fails_stay_done
        deleting_what_is_absent_is_success
        an_object_that_does_not_fit_its_key_is_refused
        there_may_be_no_flows_to_cut
        there_may_be_nothing_to_forget;
}

#[test]
fn a_fake_kernel_without_vlan_filtering_says_so_too() {
    let fake = bench::Fake::of(netd_kernel::FakeKernel::without_vlan_filtering());
    laws::vlans::a_bridge_keeps_vlans_apart_or_the_kernel_says_that_it_cannot(&fake);
}
