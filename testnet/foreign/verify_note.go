// Verifies a receipt with golang.org/x/mod/sumdb, the reference implementation of signed notes and of the
// Merkle tree, which is not ours.
//
//	verify_note RECEIPT POLICY
//
// or audits a whole log: see read_tiles.go. It is built without modules from Debian's golang-golang-x-mod-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run verify_note.go read_tiles.go RECEIPT POLICY
//
// note.Open checks the log's signature and, through a verifier for type 0x04, every co-signature;
// tlog.CheckRecord checks the leaf's place. Exit codes: 0 verified, 1 a file cannot be read,
// 2 usage, 4 did not verify.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) >= 7 && len(os.Args) <= 8 && os.Args[1] == "--log" {
		verdict, err := auditLog(os.Args[2:])
		if err != nil {
			fail(4, fmt.Errorf("did not verify: %w", err))
		}
		fmt.Println(verdict)
		return
	}
	if len(os.Args) != 3 {
		fail(2, errors.New("usage: verify_note RECEIPT POLICY"))
	}
	receipt, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(1, err)
	}
	policy, err := os.ReadFile(os.Args[2])
	if err != nil {
		fail(1, err)
	}
	verdict, err := verify(receipt, policy)
	if err != nil {
		fail(4, fmt.Errorf("did not verify: %w", err))
	}
	fmt.Println(verdict)
}

func fail(code int, err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(code)
}

func verify(receiptText, policyText []byte) (string, error) {
	receipt, err := parseReceipt(string(receiptText))
	if err != nil {
		return "", err
	}
	policy, err := parsePolicy(string(policyText))
	if err != nil {
		return "", err
	}
	tree, origin, cosigned, err := policy.openCheckpoint([]byte(receipt.note))
	if err != nil {
		return "", err
	}
	hash := tlog.RecordHash(receipt.leaf)
	if err := tlog.CheckRecord(receipt.proof, tree.N, tree.Hash, receipt.index, hash); err != nil {
		return "", err
	}
	return fmt.Sprintf("verified: leaf %d of %s at size %d, co-signed by %d witnesses",
		receipt.index, origin, tree.N, cosigned), nil
}

type receipt struct {
	leaf  []byte
	index int64
	proof tlog.RecordProof
	note  string
}

func parseReceipt(text string) (receipt, error) {
	head, checkpoint, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || lines[0] != "c2sp.org/tlog-proof@v1" {
		return receipt{}, errors.New("not a tlog-proof")
	}
	if len(lines) < 3 || !strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		return receipt{}, errors.New("not a receipt: no leaf in it")
	}
	extra, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return receipt{}, err
	}
	leaf, err := leafOf(extra)
	if err != nil {
		return receipt{}, err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return receipt{}, err
	}
	var proof tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return receipt{}, err
		}
		proof = append(proof, hash)
	}
	return receipt{leaf, index, proof, checkpoint}, nil
}

// leafOf gives the bytes of leaf in the canonical CBOR map { leaf, opening }.
func leafOf(extra []byte) ([]byte, error) {
	start := []byte("\xa2\x64leaf")
	if !bytes.HasPrefix(extra, start) {
		return nil, errors.New("extra is not { leaf, opening }")
	}
	rest, err := skipItem(extra[len(start):])
	if err != nil {
		return nil, err
	}
	return extra[len(start) : len(extra)-len(rest)], nil
}

// skipItem gives what follows the first CBOR item (RFC 8949 section 3; no indefinite lengths).
func skipItem(data []byte) ([]byte, error) {
	truncated := errors.New("truncated CBOR")
	if len(data) == 0 {
		return nil, truncated
	}
	major, argument := data[0]>>5, uint64(data[0]&0x1f)
	data = data[1:]
	if argument >= 24 {
		if argument > 27 {
			return nil, errors.New("CBOR of indefinite length")
		}
		width := 1 << (argument - 24)
		if len(data) < width {
			return nil, truncated
		}
		var padded [8]byte
		copy(padded[8-width:], data[:width])
		argument, data = binary.BigEndian.Uint64(padded[:]), data[width:]
	}
	items := uint64(0)
	switch major {
	case 2, 3:
		if uint64(len(data)) < argument {
			return nil, truncated
		}
		data = data[argument:]
	case 4:
		items = argument
	case 5:
		items = 2 * argument
	case 6:
		items = 1
	}
	for ; items > 0; items-- {
		var err error
		if data, err = skipItem(data); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func parseCheckpoint(text string) (tlog.Tree, string, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return tlog.Tree{}, "", errors.New("not a checkpoint of three lines")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, "", err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, lines[0], err
}

type policy struct {
	verifiers []note.Verifier
	logs      map[note.Signature]bool
	witnesses map[note.Signature]string
	groups    map[string]group
	quorum    string
}

type group struct {
	threshold int
	members   []string
}

// named is a verifier's name and key hash, as a signature carries them.
func named(verifier note.Verifier) note.Signature {
	return note.Signature{Name: verifier.Name(), Hash: verifier.KeyHash()}
}

func parsePolicy(text string) (*policy, error) {
	p := &policy{
		logs:      map[note.Signature]bool{},
		witnesses: map[note.Signature]string{},
		groups:    map[string]group{},
	}
	for _, line := range strings.Split(text, "\n") {
		items := strings.Fields(line)
		if len(items) == 0 || strings.HasPrefix(items[0], "#") {
			continue
		}
		if err := p.line(items); err != nil {
			return nil, fmt.Errorf("policy line %q: %w", line, err)
		}
	}
	if p.quorum == "" {
		return nil, errors.New("the policy has no quorum")
	}
	return p, nil
}

func (p *policy) line(items []string) error {
	switch {
	case items[0] == "log" && len(items) >= 2:
		verifier, err := note.NewVerifier(items[1])
		if err != nil {
			return err
		}
		p.verifiers = append(p.verifiers, verifier)
		p.logs[named(verifier)] = true
	case items[0] == "witness" && len(items) >= 3:
		verifier, err := newCosignatureVerifier(items[2])
		if err != nil {
			return err
		}
		p.verifiers = append(p.verifiers, verifier)
		p.witnesses[named(verifier)] = items[1]
	case items[0] == "group" && len(items) >= 4:
		members := items[3:]
		threshold := len(members)
		if items[2] == "any" {
			threshold = 1
		} else if items[2] != "all" {
			var err error
			if threshold, err = strconv.Atoi(items[2]); err != nil {
				return err
			}
		}
		p.groups[items[1]] = group{threshold, members}
	case items[0] == "quorum" && len(items) == 2:
		p.quorum = items[1]
	default:
		return errors.New("not understood")
	}
	return nil
}

// signers counts the log's signatures and names the witnesses, of those that note.Open has verified.
func (p *policy) signers(opened *note.Note, origin string) (int, map[string]bool) {
	logs, cosigned := 0, map[string]bool{}
	for _, signature := range opened.Sigs {
		signature.Base64 = ""
		if p.logs[signature] && signature.Name == origin {
			logs++
		}
		if name, known := p.witnesses[signature]; known {
			cosigned[name] = true
		}
	}
	return logs, cosigned
}

func (p *policy) satisfied(name string, cosigned map[string]bool) bool {
	group, isGroup := p.groups[name]
	if !isGroup {
		return cosigned[name]
	}
	count := 0
	for _, member := range group.members {
		if p.satisfied(member, cosigned) {
			count++
		}
	}
	return count >= group.threshold
}

// cosignatureVerifier checks timestamped Ed25519 co-signatures (c2sp.org/tlog-cosignature, type 0x04),
// which the package does not know.
type cosignatureVerifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newCosignatureVerifier(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("malformed key")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 0x04 {
		return nil, errors.New("not a co-signing key of type 0x04")
	}
	digest := sha256.Sum256([]byte(parts[0] + "\n" + string(key)))
	hash := binary.BigEndian.Uint32(digest[:4])
	if fmt.Sprintf("%08x", hash) != parts[1] {
		return nil, errors.New("key has another id")
	}
	return &cosignatureVerifier{parts[0], hash, key[1:]}, nil
}

func (v *cosignatureVerifier) Name() string    { return v.name }
func (v *cosignatureVerifier) KeyHash() uint32 { return v.hash }

func (v *cosignatureVerifier) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(signature)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	return ed25519.Verify(v.key, []byte(message), signature[8:])
}
