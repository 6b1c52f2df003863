//! Headwater in a cluster: the real binary against a real API server, with kubectl as the user's client.
