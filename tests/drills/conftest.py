"""A Ray that a test starts is to stay on loopback, which Ray settles when it is first imported."""

from sweeper.trials import cluster

cluster.isolate()
