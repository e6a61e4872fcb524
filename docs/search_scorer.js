// What the search ranks by: Sphinx's own numbers, but the changelog, which has a word on everything, comes last.
var Scorer = {
  score: ([page, title, anchor, description, score]) => (page === "CHANGELOG" ? score - 100 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
