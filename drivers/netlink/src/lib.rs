//! Links, addresses, routes, rules, neighbours and conntrack entries of the kernel, over rtnetlink and nfnetlink.
