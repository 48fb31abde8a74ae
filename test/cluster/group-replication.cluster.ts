import { startCluster } from './cluster.js'
import { describeWriters } from './writers.js'

describeWriters('three MySQL servers that all take writes', startCluster)
