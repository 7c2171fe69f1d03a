"""results.json as tables and figures (`ostinato report`), and the numbers the papers print (`paper_numbers`)."""
