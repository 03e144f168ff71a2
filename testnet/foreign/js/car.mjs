// Reads a CAR with IPLD's own library, checks every block, and writes it anew.
//
// node car.mjs IN OUT FOLDER
//
// OUT gets the same roots and blocks in the same order; FOLDER a file for each block, named by its CID. Prints what
// was read. It ends with 4 when a block has another hash, or the DAG of a root is not whole, or does not stand in the
// file depth first.

import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CarBlockIterator, CarWriter } from '@ipld/car'
import * as dagCbor from '@ipld/dag-cbor'
import { createUnsafe } from 'multiformats/block'
import * as raw from 'multiformats/codecs/raw'
import { equals } from 'multiformats/bytes'
import { sha256 } from 'multiformats/hashes/sha2'

const NOT_VERIFIED = 4
const CODECS = new Map([dagCbor, raw].map(codec => [codec.code, codec]))

class NotVerified extends Error {}

async function main(input, output, folder) {
  await mkdir(folder)
  const car = await CarBlockIterator.fromIterable(createReadStream(input))
  const roots = await car.getRoots()
  const { writer, out } = CarWriter.create(roots)
  const written = pipeline(Readable.from(out), createWriteStream(output))
  const order = new Order(roots)
  let [blocks, size] = [0, 0]
  for await (const { cid, bytes } of car) {
    order.next(cid, links(await checked(cid, bytes)))
    await writeFile(join(folder, cid.toString()), bytes)
    await writer.put({ cid, bytes })
    blocks += 1
    size += bytes.length
  }
  await writer.close()
  await written
  order.end()
  for (const root of roots) console.log(`root ${root}`)
  console.log(`read ${blocks} blocks, ${size} bytes, every hash checked, every root whole and depth first`)
}

async function checked(cid, bytes) {
  const codec = CODECS.get(cid.code)
  check(codec && cid.multihash.code === sha256.code, `${cid} is of another kind`)
  const { digest } = await sha256.digest(bytes)
  check(equals(digest, cid.multihash.digest), `block ${cid} has another hash`)
  return createUnsafe({ cid, bytes, codec })
}

function links(block) {
  return Array.from(block.links(), ([, cid]) => cid)
}

// What must come next: what is below the last root, depth first. Between two DAGs, blocks may come that belong to none.
class Order {
  constructor(roots) {
    this.roots = roots.map(String)
    this.todo = []
  }

  next(cid, links) {
    if (this.todo.length > 0) {
      const expected = this.todo.pop()
      check(String(cid) === expected, `${cid} stands where ${expected} should`)
    } else if (String(cid) === this.roots[0]) {
      this.roots.shift()
    } else {
      return
    }
    this.todo.push(...links.map(String).reverse())
  }

  end() {
    const missing = this.todo.at(-1) ?? this.roots[0]
    check(missing === undefined, `block ${missing} is missing`)
  }
}

function check(holds, error) {
  if (!holds) throw new NotVerified(error)
}

try {
  await main(...process.argv.slice(2))
} catch (error) {
  // What the library itself refuses is not verified either; what the disk refuses is not for it to say.
  const failed = error.syscall !== undefined
  console.error(`${failed ? 'failed' : 'not verified'}: ${error.message}`)
  process.exit(failed ? 1 : NOT_VERIFIED)
}
