"""Rows of benchmarks that outside judges and checkers score.

MT-Bench's are from FastChat and IFEval's from google-research, both Apache-2.0. AlpacaEval's data
are not free, so those rows only have its form.
"""

MT_BENCH = [
    {
        "question_id": 101,
        "category": "reasoning",
        "turns": [
            "Imagine you are participating in a race with a group of people. If you have just "
            "overtaken the second person, what's your current position? Where is the person you "
            "just overtook?",
            'If the "second person" is changed to "last person" in the above question, what would '
            "the answer be?",
        ],
        "reference": ["You are in second place.", "Uncertain."],
    },
    {
        "question_id": 82,
        "category": "writing",
        "turns": [
            "Draft a professional email seeking your supervisor's feedback on the 'Quarterly "
            "Financial Report' you prepared. Ask specifically about the data analysis, "
            "presentation style, and the clarity of conclusions drawn. Keep the email short and "
            "to the point.",
            "Take a moment to evaluate and critique your own response.",
        ],
    },
    {
        "question_id": 112,
        "category": "math",
        "turns": [
            "A tech startup invests $8000 in software development in the first year, and then "
            "invests half of that amount in software development in the second year.\nWhat's the "
            "total amount the startup invested in software development over the two years?",
            "If the startup maintains the same strategy for the third year, investing half of the "
            "previous year's amount into software development, how much will they invest in the "
            "third year?",
        ],
        "reference": ["12000", "2000"],
    },
]

IFEVAL = [
    {
        "key": 1001,
        "prompt": "I am planning a trip to Japan, and I would like thee to write an itinerary for "
        "my journey in a Shakespearean style. You are not allowed to use any commas in your "
        "response.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
    {
        "key": 1107,
        "prompt": "Write two jokes about rockets. Do not contain commas in your response. Separate "
        "the two jokes with 6 asterisk symbols: ******.",
        "instruction_id_list": ["punctuation:no_comma", "combination:two_responses"],
        "kwargs": [{}, {}],
    },
    {
        "key": 1130,
        "prompt": "Write a logic quiz for teenagers about a chesterfield. In your entire response, "
        "the letter t should appear at most once.",
        "instruction_id_list": ["keywords:letter_frequency"],
        "kwargs": [{"let_relation": "less than", "letter": "t", "let_frequency": 2}],
    },
    {
        "key": 1000,
        "prompt": 'Write a 300+ word summary of the wikipedia page "https://en.wikipedia.org/wiki/'
        'Raymond_III,_Count_of_Tripoli". Do not use any commas and highlight at least 3 sections '
        "that has titles in markdown format, for example *highlighted section part 1*, "
        "*highlighted section part 2*, *highlighted section part 3*.",
        "instruction_id_list": [
            "punctuation:no_comma",
            "detectable_format:number_highlighted_sections",
            "length_constraints:number_words",
        ],
        "kwargs": [{}, {"num_highlights": 3}, {"relation": "at least", "num_words": 300}],
    },
    # The checker takes no `#` for a letter, and draws one.
    {
        "key": 1122,
        "prompt": "make a tweet for playboy's twitter account without using capital letters. "
        "Include at least 4 hashtags, starting with '#'",
        "instruction_id_list": ["change_case:english_lowercase", "keywords:letter_frequency"],
        "kwargs": [{}, {"let_relation": "at least", "letter": "#", "let_frequency": 4}],
    },
]

ALPACA_EVAL = [
    {
        "instruction": "Name a capital.",
        "output": "Paris is one.",
        "generator": "text_davinci_003",
        "dataset": "helpful_base",
        "datasplit": "eval",
    },
    {
        "instruction": "Name a river\u2028and a sea.",
        "output": "The Rhine, and the North Sea.",
        "generator": "text_davinci_003",
        "dataset": "koala",
        "datasplit": "eval",
    },
]
