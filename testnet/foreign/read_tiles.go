// Audits a whole log over HTTPS with golang.org/x/mod/sumdb, the reference implementation of signed notes and
// of tiled trees, which is not ours. It is part of verify_note.go:
//
//	verify_note --log URL POLICY CA CERT KEY [OLD_CHECKPOINT]
//
// note.Open checks the newest checkpoint. tlog.TileHashReader reads our tiles and believes none of them until
// they make the root; through it tlog.ProveRecord and tlog.CheckRecord are run for every entry, and
// tlog.ProveTree and tlog.CheckTree for older trees, that of OLD_CHECKPOINT among them. At last all is done again
// with one bit of a tile changed, for each tile, and must be refused.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func auditLog(args []string) (string, error) {
	policyText, err := os.ReadFile(args[1])
	if err != nil {
		return "", err
	}
	policy, err := parsePolicy(string(policyText))
	if err != nil {
		return "", err
	}
	source, err := newTileSource(args[0], args[2], args[3], args[4])
	if err != nil {
		return "", err
	}
	text, err := source.get("checkpoint")
	if err != nil {
		return "", err
	}
	tree, origin, _, err := policy.openCheckpoint(text)
	if err != nil {
		return "", err
	}
	reader := tlog.TileHashReader(tree, source)
	if err := auditEntries(source, tree, reader); err != nil {
		return "", err
	}
	older := []int64{1, tree.N / 2, tree.N - 1, tree.N}
	for _, size := range older {
		if size > 0 {
			hash, err := tlog.TreeHash(size, reader)
			if err != nil {
				return "", err
			}
			if err := checkGrowth(tree, reader, tlog.Tree{N: size, Hash: hash}); err != nil {
				return "", err
			}
		}
	}
	if len(args) == 6 {
		text, err := os.ReadFile(args[5])
		if err != nil {
			return "", err
		}
		old, _, _, err := policy.openCheckpoint(text)
		if err != nil {
			return "", err
		}
		if err := checkGrowth(tree, reader, old); err != nil {
			return "", err
		}
	}
	refused, err := refuseChanged(source, tree)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("verified: all %d entries of %s from %d tiles; %d changed tiles refused",
		tree.N, origin, len(source.tiles), refused), nil
}

// openCheckpoint checks signatures and quorum, and says how many witnesses co-signed.
func (p *policy) openCheckpoint(text []byte) (tlog.Tree, string, int, error) {
	opened, err := note.Open(text, note.VerifierList(p.verifiers...))
	if err != nil {
		return tlog.Tree{}, "", 0, err
	}
	tree, origin, err := parseCheckpoint(opened.Text)
	if err != nil {
		return tlog.Tree{}, "", 0, err
	}
	logs, cosigned := p.signers(opened, origin)
	if logs == 0 {
		return tlog.Tree{}, "", 0, errors.New("no listed log key signed")
	}
	if p.quorum != "none" && !p.satisfied(p.quorum, cosigned) {
		err := fmt.Errorf("quorum not met: %d witnesses co-signed", len(cosigned))
		return tlog.Tree{}, "", 0, err
	}
	return tree, origin, len(cosigned), nil
}

func checkGrowth(tree tlog.Tree, reader tlog.HashReader, old tlog.Tree) error {
	proof, err := tlog.ProveTree(tree.N, old.N, reader)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
}

func auditEntries(source *tileSource, tree tlog.Tree, reader tlog.HashReader) error {
	for first := int64(0); first < tree.N; first += 256 {
		width := tree.N - first
		path := "tile/entries/" + indexPath(first/256)
		if width < 256 {
			path += fmt.Sprintf(".p/%d", width)
		} else {
			width = 256
		}
		bundle, err := source.get(path)
		if err != nil {
			return err
		}
		for index := first; index < first+width; index++ {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return fmt.Errorf("%s is too short", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			proof, err := tlog.ProveRecord(tree.N, index, reader)
			if err != nil {
				return err
			}
			hash := tlog.RecordHash(bundle[2:end])
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, hash); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
			bundle = bundle[end:]
		}
		if len(bundle) != 0 {
			return fmt.Errorf("%s is too long", path)
		}
	}
	return nil
}

// refuseChanged audits again with every tile that was read changed in its last bit, one at a time. Proofs are
// checked too: TileHashReader alone overlooks some tiles when two subtrees of the edge share one (x/mod 0.7).
func refuseChanged(source *tileSource, tree tlog.Tree) (int, error) {
	for changed := range source.tiles {
		source := source.withChanged(changed)
		if auditEntries(source, tree, tlog.TileHashReader(tree, source)) == nil {
			return 0, fmt.Errorf("%s is believed with one bit changed", changed)
		}
	}
	return len(source.tiles), nil
}

// tileSource reads a log over HTTPS, each tile once.
type tileSource struct {
	url    string
	client *http.Client
	tiles  map[string][]byte
}

func newTileSource(url, ca, cert, key string) (*tileSource, error) {
	authorities, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return nil, errors.New("no certificate authority")
	}
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		RootCAs:      roots,
		Certificates: []tls.Certificate{own},
		MinVersion:   tls.VersionTLS13,
	}
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: config},
		Timeout:   20 * time.Second,
	}
	return &tileSource{strings.TrimSuffix(url, "/"), client, map[string][]byte{}}, nil
}

func (s *tileSource) get(path string) ([]byte, error) {
	response, err := s.client.Get(s.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, 32<<20))
}

func (s *tileSource) withChanged(path string) *tileSource {
	tiles := map[string][]byte{}
	for name, data := range s.tiles {
		tiles[name] = data
	}
	data := append([]byte(nil), tiles[path]...)
	data[len(data)-1] ^= 1
	tiles[path] = data
	return &tileSource{s.url, s.client, tiles}
}

// Height is that of C2SP tiles.
func (s *tileSource) Height() int { return 8 }

// ReadTiles gives tiles that are not believed yet.
func (s *tileSource) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// C2SP paths are those of the package without the height, which is always 8.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, known := s.tiles[path]
		if !known {
			var err error
			if data, err = s.get(path); err != nil {
				return nil, err
			}
			s.tiles[path] = data
		}
		all = append(all, data)
	}
	return all, nil
}

// SaveTiles has nothing to do: tiles are kept when they are read.
func (s *tileSource) SaveTiles([]tlog.Tile, [][]byte) {}

// indexPath is the index in groups of three digits, as tlog.Tile.Path writes it.
func indexPath(index int64) string {
	return strings.TrimPrefix(tlog.Tile{H: 8, L: 0, N: index, W: 256}.Path(), "tile/8/0/")
}
