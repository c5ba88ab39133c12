"""A Ray that a test starts is to stay on loopback, which Ray settles when it is first imported."""

from sweeper import cluster

cluster.isolate()
