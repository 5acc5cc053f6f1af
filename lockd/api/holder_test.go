package api

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestHolderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Holder{
			Node: rapid.Uint32().Draw(t, "node"), Token: rapid.Uint64().Draw(t, "token"), Owner: rapid.Uint32().Draw(t,
				"owner"), Who: cutWho(rapid.String().Draw(t, "who")),
			Mode: rapid.SampledFrom(append([]dlm.Mode{dlm.None}, dlm.Modes[:]...)).Draw(t, "mode"),
		}
		got, ok := DecodeHolder(h.Encode())
		require.True(t, ok)
		require.Equal(t, h, got)
	})
}

// A change of any byte is noticed, and a block of others is not taken for ours.
func TestHolderCheck(t *testing.T) {
	v := Holder{Node: 3, Mode: dlm.EX, Token: 12345, Who: "web"}.Encode()
	for i := range v {
		for bit := range 8 {
			damaged := v
			damaged[i] ^= 1 << bit
			_, ok := DecodeHolder(damaged)
			require.False(t, ok, "byte %d bit %d", i, bit)
		}
	}
	_, ok := DecodeHolder(dlm.Value{})
	require.False(t, ok)
}

// The hash of an owner is the same on every node and for ever.
func TestOwnerHash(t *testing.T) {
	require.Zero(t, OwnerHash(0, ""))
	require.Equal(t, uint32(0x8a15f886), OwnerHash(1000, "vm1"))
	require.NotEqual(t, OwnerHash(1000, "vm1"), OwnerHash(1001, "vm1"), "owners are per uid")
}

func TestCutWho(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "web": "web", "a label too long for it": "a label ", "zwölf Zeichen": "zwölf Z",
		"li\nbr\x1b[31m": "li?br?[3", "\xff\xfe": "??", "日本語日本": "日本",
	} {
		got := cutWho(in)
		require.Equal(t, want, got, "%q", in)
		require.LessOrEqual(t, len(got), holderWhoLen)
	}
}

// FuzzDecodeHolder reads blocks of any content: what is accepted is text that
// can be printed in one line, and is written again as it was.
func FuzzDecodeHolder(f *testing.F) {
	f.Add([]byte{})
	for _, h := range []Holder{{}, {Node: 1, Mode: dlm.EX, Token: 1, Who: "web"},
		{Mode: dlm.None, Token: ^uint64(0)}, {Node: 2, Mode: dlm.PW, Owner: 7, Who: "日本"}} {
		v := h.Encode()
		f.Add(v[:])
	}
	f.Add([]byte("DL\x01\x4d----12345678line\nbreak--"))
	f.Add([]byte("DL\x01\x05----12345678\xff\x00\xfe---------"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v dlm.Value
		copy(v[:], b)
		if len(b) < len(v) { // a short one is given a right check
			binary.BigEndian.PutUint32(v[28:], crc32.Checksum(v[:28], castagnoli))
		}
		h, ok := DecodeHolder(v)
		if !ok {
			require.Equal(t, Holder{}, h)
			return
		}
		require.True(t, utf8.ValidString(h.Who))
		require.Equal(t, h.Who, cutWho(h.Who), "what other nodes print")
		require.True(t, h.Mode == dlm.None || h.Mode.Valid())
		require.Equal(t, v, h.Encode())
	})
}
