// WordPiece as BERT has it (arXiv 1810.04805), from the tokenizer.json of the package `tokenizers`.

const MARK = /\p{Mn}/gu; // accents, once a letter is taken apart
const SPACE = /\s+/u;
// Whatever is no letter, number or space in ASCII, and Unicode's punctuation.
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/u;
const UNSEEN = /[\u0000\ufffd\p{Cc}\p{Cf}\p{Cn}\p{Co}]/gu;
const CHINESE = /([\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}])/gu;

export class Tokenizer {
  constructor({ model, added_tokens: added, post_processor: { special_tokens: ends } }) {
    this.added = new Map(added.map(({ content, id }) => [content, id])); // such as [SEP], wherever it stands
    this.vocab = new Map(Object.entries(model.vocab));
    this.unknown = this.vocab.get(model.unk_token);
    this.prefix = model.continuing_subword_prefix;
    this.longest = model.max_input_chars_per_word;
    [this.first, this.last] = [ends["[CLS]"].ids[0], ends["[SEP]"].ids[0]];
  }

  // text -> ids, at the most so many
  encode(text, most) {
    const ids = this.split(text).flatMap((part) => this.added.get(part) ?? this.words(part).flatMap((word) => this.pieces(word)));
    return [this.first, ...ids.slice(0, most - 2), this.last];
  }

  // The text at the added tokens, which stay.
  split(text) {
    const escaped = [...this.added.keys()].map((word) => word.replace(/[^\w]/g, "\\$&"));
    return escaped.length ? text.split(new RegExp(`(${escaped.join("|")})`, "u")) : [text];
  }

  words(text) {
    const clean = text.replace(/[\t\n\r]/g, " ").replace(UNSEEN, "").replace(CHINESE, " $1 ");
    const plain = clean.normalize("NFD").replace(MARK, "").toLowerCase();
    return plain.split(SPACE).filter(Boolean).flatMap((part) => {
      const found = [];
      let word = "";
      for (const letter of part) {
        if (PUNCTUATION.test(letter)) {
          if (word) found.push(word);
          found.push(letter);
          word = "";
        } else word += letter;
      }
      return word ? [...found, word] : found;
    });
  }

  // The longest piece that is known, from the left; a word of which a part is not is unknown.
  pieces(word) {
    const letters = [...word], found = [];
    if (letters.length > this.longest) return [this.unknown];
    for (let from = 0; from < letters.length; ) {
      let to = letters.length, id;
      for (; to > from; to--) {
        id = this.vocab.get((from ? this.prefix : "") + letters.slice(from, to).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.unknown];
      found.push(id);
      from = to;
    }
    return found;
  }
}
