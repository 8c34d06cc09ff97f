//! The counts of a node of a cluster. They stay 0 on a server without other nodes.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ClusterMetrics {
    /// 1 while the node has a valid lease.
    pub(crate) lease: Gauge,
    /// The running nodes, this one among them.
    pub(crate) nodes: Gauge,
    /// The different rules by which the running nodes decide.
    pub(crate) rules: Gauge,
    /// The rooms whose events the node hears.
    pub(crate) rooms_heard: Gauge,
    pub(crate) connections_lost: Counter,
    pub(crate) leases_ended: Counter,
    pub(crate) begun_anew: Counter,
    pub(crate) rooms_lost: Counter,
    pub(crate) foreign_messages: Counter,
}

impl ClusterMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("cluster_lease", "1 while the node may dispatch events and admit users, 0 without Redis", &self.lease),
            ("cluster_nodes", "Nodes that run, as far as this one knows", &self.nodes),
            ("cluster_rules", "Different rules and secrets by which the running nodes decide: 1 is right", &self.rules),
            ("cluster_rooms_heard", "Rooms whose events the node hears", &self.rooms_heard),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("cluster_connections_lost", "Connections to Redis that were lost", &self.connections_lost),
            (
                "cluster_leases_ended",
                "Times that the node was silent because it had not heard from Redis for too long",
                &self.leases_ended,
            ),
            (
                "cluster_begun_anew",
                "Times that all clients of the node were closed because Redis had lost events",
                &self.begun_anew,
            ),
            (
                "cluster_rooms_lost",
                "Rooms whose members were closed because events of the room were gone from Redis",
                &self.rooms_lost,
            ),
            (
                "cluster_foreign_messages",
                "Messages in Redis that were skipped because they are not of this server",
                &self.foreign_messages,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
