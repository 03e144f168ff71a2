// Runs Helia in a private network: serves blocks, or fetches a DAG with a window. It takes the options of
// `testnet/foreign/kubo_pin.py` and says the same.
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import * as dagCbor from '@ipld/dag-cbor'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const UNAVAILABLE = 5

const { values: args } = parseArgs({
  options: {
    repo: { type: 'string' },
    'swarm-key': { type: 'string' },
    deadline: { type: 'string', default: '60' },
    add: { type: 'string' },
    connect: { type: 'string', multiple: true, default: [] },
    cid: { type: 'string' },
    window: { type: 'string', default: '64' },
    serve: { type: 'boolean', default: false }
  }
})

const privateKey = await identity(args.repo)
const peer = peerIdFromPrivateKey(privateKey)
console.log(`peer ${peer}`)
if (args.add == null && args.cid == null && !args.serve) {
  process.exit(0)
}

const deadline = setTimeout(() => {
  console.error(`unavailable: not done within ${args.deadline} seconds`)
  process.exit(UNAVAILABLE)
}, Number(args.deadline) * 1000)
// Not `withLibp2p`, which adds what finds peers and is found.
const helia = withBitswap(withLibp2pLight(createHeliaLight({ codecs: [dagCbor] }), {
  privateKey,
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionProtector: preSharedKey({ psk: readFileSync(args['swarm-key']) }),
  // With its own limits for those that come in it refuses every handshake from the tenth on.
  connectionManager: { inboundConnectionThreshold: Infinity, maxIncomingPendingConnections: Infinity },
  peerDiscovery: [],
  services: { identify: identify(), ping: ping() }
}))
await helia.start()
if (args.add != null) {
  for (const name of readdirSync(args.add)) {
    await helia.blockstore.put(CID.parse(name), readFileSync(join(args.add, name)))
  }
}
for (const address of args.connect) {
  await helia.libp2p.dial(multiaddr(address))
}
if (args.cid != null) {
  const { blocks, bytes } = await fetchDag(CID.parse(args.cid), Number(args.window))
  console.log(`pinned ${args.cid}: ${blocks} blocks, ${bytes} bytes, every hash checked`)
}
clearTimeout(deadline)
if (args.serve) {
  console.log(`serving ${helia.libp2p.getMultiaddrs()[0].toString().split('/p2p/')[0]}/p2p/${peer}`)
  for await (const _ of process.stdin);
}
await helia.stop()
process.exit(0)

/** The same key each time. */
async function identity (repo) {
  mkdirSync(repo, { recursive: true })
  const path = join(repo, 'seed')
  if (!existsSync(path)) {
    writeFileSync(path, randomBytes(32))
  }
  return generateKeyPairFromSeed('Ed25519', new Uint8Array(readFileSync(path)))
}

/** Walks a DAG level by level, `window` blocks at a time. */
async function fetchDag (root, window) {
  const seen = new Set([root.toString()])
  let level = [root]
  let blocks = 0
  let bytes = 0
  while (level.length > 0) {
    const next = []
    for (let begin = 0; begin < level.length; begin += window) {
      const some = level.slice(begin, begin + window)
      const fetched = await Promise.all(some.map(async (cid) => await block(cid)))
      for (const [index, data] of fetched.entries()) {
        blocks += 1
        bytes += data.length
        for (const link of links(some[index], data)) {
          if (!seen.has(link.toString())) {
            seen.add(link.toString())
            next.push(link)
          }
        }
      }
    }
    level = next
  }
  return { blocks, bytes }
}

async function block (cid) {
  const parts = []
  const got = await helia.blockstore.get(cid)
  if (got instanceof Uint8Array) {
    parts.push(got)
  } else {
    for await (const part of got) {
      parts.push(part)
    }
  }
  const data = Buffer.concat(parts)
  if (!CID.createV1(cid.code, await sha256.digest(data)).equals(cid)) {
    throw new Error(`block ${cid} has another hash`)
  }
  return data
}

function links (cid, data) {
  return cid.code === dagCbor.code ? [...linksIn(dagCbor.decode(data))] : []
}

function * linksIn (value) {
  const cid = CID.asCID(value)
  if (cid != null) {
    yield cid
  } else if (value != null && typeof value === 'object' && !(value instanceof Uint8Array)) {
    for (const one of Object.values(value)) {
      yield * linksIn(one)
    }
  }
}
